"""Detectors of a stored study: a bank for each keyed model, fitted on kept images, tried on others.

    python jobs/proliferate.py --preset digits --attacks apgd-ce targeted-fgsm --keep-images
    python jobs/detect.py --name digits --fit-on targeted-fgsm

Needs the store alone. Exit status: 0 done; 2 it could not be done as asked, and one sentence says why.
"""

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from orchestrator.detection.measures import RATES
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.scores import Rule
from orchestrator.pipeline.command import HOME, main, reader
from orchestrator.pipeline.detectors import Detectors, told
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
    """Attacks to fit on, as in their addresses, e.g. targeted-fgsm; none: all whose images are kept."""
    rule: Rule = "ratio"
    """What images are judged by."""
    bank: BankRecipe = field(default_factory=BankRecipe)


def detect(options: Options) -> int:
    """Print a line for clean images and for every sort of attacked ones, model by model."""
    store = open_store(below(options.store, options.name))
    detectors = Detectors(store=store, settings=options.bank, fit_on=options.fit_on, rule=options.rule)
    table = Table(title=f"{options.name}: what detectors stop, in percent with 95 % intervals")
    for heading in (
        "model",
        "images",
        "fitted on",
        "count",
        "AUROC",
        *(f"at {100 * r:g} %" for r in RATES),
    ):
        table.add_column(heading, no_wrap=True)
    for findings in detectors.run():
        for row in told(findings):
            table.add_row(*row)
    Console(width=160).print(table)
    return 0


if __name__ == "__main__":
    main(detect, reader(Options, "Detectors of a study, fitted and tried on its kept images."))
