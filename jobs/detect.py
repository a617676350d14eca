"""Detectors of a stored study: one for every key's model, fitted on kept images and tried on all others.

    python jobs/detect.py --name digits --fit-on targeted-fgsm

Needs the store alone. Exit status: 0 done; 1 some could not be made and are listed; 2 not as asked.
"""

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.detection.recipe import BankRecipe
from orchestrator.pipeline.bars import open_reporter
from orchestrator.pipeline.command import HOME, main, reader
from orchestrator.pipeline.detected import attacker_tables, rival_tables, stopped_tables
from orchestrator.pipeline.guards import recall_guards
from orchestrator.pipeline.informed import Informed, Limits
from orchestrator.store.artifacts import open_store
from orchestrator.store.uri import below


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which study, and how its detectors are fitted."""

    store: str = f"{HOME}/store"
    """Where all studies' artifacts are: a folder, or s3://bucket/prefix with options such as ?sse=kms."""
    name: str = "digits"
    fit_on: tuple[str, ...] = ()
    """Attacks to fit on; none: targeted-fgsm if the study has it, else its first."""
    bank: BankRecipe = field(default_factory=BankRecipe)
    attackers: bool = False
    """Measure attackers who have model, bank and code, too: minutes a model."""
    rivals: bool = False
    """Measure other detectors beside, too."""
    limits: Limits = field(default_factory=Limits)


def detect(options: Options) -> int:
    """Fit what is missing, judge what was not judged, print what is found."""
    guards = recall_guards(open_store(below(options.store, options.name)), options.bank, options.fit_on)
    failures = guards.run(LocalWorkplace(), open_reporter())
    found, informed = guards.findings(), Informed(guards=guards, limits=options.limits)
    asked = [
        *(stopped_tables(found) if found else ()),
        *(attacker_tables(informed) if options.attackers else ()),
        *(rival_tables(informed) if options.rivals else ()),
    ]
    for told in asked:
        table = Table(*told.header, title=f"{options.name}: {told.title}")
        for row in told.rows:
            table.add_row(*row)
        Console(width=180).print(table, *told.notes, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    main(detect, reader(Options, "Detectors of a study, fitted and tried on its kept images."))
