"""Detectors of a stored study: one for every key's model, fitted on kept images and tried on all others.

    python jobs/proliferate.py --preset digits --attacks targeted-fgsm apgd-ce mi-fgsm --keep-images
    python jobs/detect.py --name digits --fit-on targeted-fgsm

Needs the store alone. Exit status: 0 done; 1 some detectors could not be made (they are listed); 2 it
could not be done as asked, and one sentence says why.
"""

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.detection.rates import RATES
from orchestrator.detection.recipe import BankRecipe
from orchestrator.pipeline.bars import open_reporter
from orchestrator.pipeline.command import HOME, main, reader
from orchestrator.pipeline.detected import HEADER, fleet_rows, notes, rows
from orchestrator.pipeline.guards import recall_guards
from orchestrator.store.artifacts import open_store
from orchestrator.store.uri import below


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which study, and how its detectors are fitted."""

    store: str = f"{HOME}/store"
    """Where all studies' artifacts are: a folder, or s3://bucket/prefix with options such as ?sse=kms."""
    name: str = "digits"
    """The study."""
    fit_on: tuple[str, ...] = ()
    """Attacks to fit on; none: targeted-fgsm if the study has it, else its first."""
    bank: BankRecipe = field(default_factory=BankRecipe)


def detect(options: Options) -> int:
    """Fit what is missing, judge what was not judged, print what is found."""
    store, console = open_store(below(options.store, options.name)), Console(width=160)
    guards = recall_guards(store, options.bank, options.fit_on)
    failures = guards.run(LocalWorkplace(), open_reporter())
    found = guards.findings()
    if found is not None:
        rates = [f"stopped at {100 * rate:g} %" for rate in RATES]
        for title, header, lines in (
            (f"{options.name}: what detectors stop, with 95 % intervals", HEADER, rows(found)),
            ("Other keys' images that do no harm", ("images", "without", *rates), fleet_rows(found)),
        ):
            table = Table(*header, title=title)
            for line in lines:
                table.add_row(*line)
            console.print(table)
        console.print(*notes(found), sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    main(detect, reader(Options, "Detectors of a study, fitted and tried on its kept images."))
