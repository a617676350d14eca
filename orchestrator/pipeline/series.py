"""Series: the studies of a reproduction one after another; each takes over what earlier ones have made."""

from dataclasses import dataclass, fields
from typing import Any

import tyro

from orchestrator.cluster.runner import Failed
from orchestrator.errors import StudyError
from orchestrator.pipeline.bill import price_study, summed, taken_over
from orchestrator.pipeline.command import Command, preset_of
from orchestrator.pipeline.comparison import write_comparison
from orchestrator.pipeline.metered import Metered
from orchestrator.pipeline.price import PriceLine
from orchestrator.pipeline.progress import Reporter
from orchestrator.pipeline.reproduction import REPRODUCTIONS, Reproduction, Trial
from orchestrator.pipeline.so_far import SoFar
from orchestrator.pipeline.stages import Ending, StudyRun
from orchestrator.store.artifacts import ArtifactStore


@dataclass(frozen=True, kw_only=True)
class SeriesCommand(Command):
    """Options of jobs/reproduce.py: those of jobs/proliferate.py, and what makes several studies of one."""

    block_sizes: tuple[int, ...] = ()
    """Sides of the shuffled blocks, a study each; the paper's 4, 8 and 16 are ¼, ½ and all of its patch."""
    seeds: int = 1
    """How often all is run from the start: other plain models, other keys, other batches."""
    table_threat: str = "linf:4/255"
    """The ℓ∞ threat of Table I, one of --threats; the other ℓ∞ threats are Fig. 4's alone."""

    @property
    def reproduction(self) -> Reproduction:
        """What is to be reproduced.

        Raises:
            StudyError: values do not fit together.
        """
        if self.study.block_size != REPRODUCTIONS[self.preset]().study.block_size:
            raise StudyError(
                "A reproduction has several block sizes. Give --block-sizes, not --block-size."
            )
        return Reproduction(
            study=self.study,
            block_sizes=self.block_sizes,
            seeds=self.seeds,
            table_threat=self.table_threat,
        )

    def part(self, trial: Trial) -> Command:
        """The command of one of its studies."""
        given: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Command)}
        return Command(**given | {"study": trial.study})


def parse_series(arguments: list[str]) -> SeriesCommand:
    """The command, its defaults taken from the preset it names.

    Raises:
        StudyError: there is no such preset.
    """
    preset = preset_of(arguments, REPRODUCTIONS)
    known = REPRODUCTIONS[preset]()
    default = SeriesCommand(
        study=known.study,
        preset=preset,
        block_sizes=known.block_sizes,
        table_threat=known.table_threat,
    )
    told = "The studies behind arXiv 2311.16577, and their numbers beside the paper's."
    return tyro.cli(SeriesCommand, default=default, args=arguments, description=told)


def run_series(command: SeriesCommand, reporter: Reporter) -> Ending:
    """Run every study to its end, then write the page; what failed is in the ending."""
    reproduction, shelf = command.reproduction, command.open_store()
    failures: list[Failed[Any]] = []
    done: dict[Trial, ArtifactStore] = {}
    for trial in reproduction.trials:
        part = command.part(trial)
        store = part.open_store()
        with part.workplace() as workplace, workplace.meter() as meter:
            reporter.matrix(SoFar(()))  # what the last study came to is not of this one
            reporter.say(f"study {trial.study.name} in {store.uri}, on {workplace.description}")
            metered = Metered(reporter, meter, trial.study.name)
            run = StudyRun(
                trial.study,
                store,
                part.vault_uri,
                workplace,
                metered,
                part.attacking,
                # Whoever has cut the same shards: an earlier study, or one of the reproduction's own name.
                relatives=[shelf, *done.values()],
            )
            failures += run.run().failures
        done[trial] = store
    return Ending(write_comparison(reproduction, done, shelf), failures)


def price_series(command: SeriesCommand) -> dict[str, list[PriceLine]]:
    """What every study takes, by its name, and all together."""
    lines: dict[str, list[PriceLine]] = {}
    seeds = set[int]()
    for trial in command.reproduction.trials:
        shared = ["shards"] if lines else []
        shared += ["plain models"] if trial.seed in seeds else []
        lines[trial.study.name] = taken_over(price_study(command.part(trial)), shared)
        seeds.add(trial.seed)
    return lines | {"all": [summed(line for study in lines.values() for line in study)]}
