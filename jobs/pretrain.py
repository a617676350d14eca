"""Pre-training: the plain model of a study alone, for it and for others; no key is made, nothing attacked.

    python jobs/pretrain.py --preset cifar10 --data DATA --base.cutmix 1.0 --out plain.safetensors
    python jobs/proliferate.py --preset cifar10 --data DATA --name small --weights plain.safetensors

The model stays in the store, too, where the study of that name finds it. Over several devices with
--workers-per-model. Exit status: 0 done; 1 training failed; 2 it could not be done as asked, and one
sentence says why.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StudyError
from orchestrator.models.stored import PLAIN_ADDRESS, WEIGHTS_FILE
from orchestrator.pipeline.bars import open_reporter
from orchestrator.pipeline.command import Command, main, parse_as
from orchestrator.pipeline.stages import StudyRun


@dataclass(frozen=True, kw_only=True)
class Pretraining(Command):
    """Options of a job; the study's defaults come from its preset, and its base recipe is followed."""

    out: str = ""
    """A .safetensors file to write the weights to, for --weights of other studies."""


def pretrain(command: Pretraining) -> int:
    """Train the plain model unless it is there, and tell how many clean images it reads right."""
    if command.study.weights or command.dry_run:
        raise StudyError("The plain model is trained here: leave out --weights and --dry-run.")
    reporter, store = open_reporter(), command.open_store()
    with command.workplace() as workplace:
        reporter.say(f"plain model of {command.study.name} in {store.uri}, on {workplace.description}")
        run = StudyRun(command.study, store, command.vault_uri, workplace, reporter)
        accuracy = run.pretrain()
    if accuracy is None:
        return 1
    percent = [f"{100 * value:.1f}" for value in accuracy]
    reporter.say(f"clean accuracy: {percent[0]} % of evaluation images [{percent[1]}, {percent[2]}]")
    if command.out:
        Path(command.out).write_bytes(store.read(PLAIN_ADDRESS, WEIGHTS_FILE))
        reporter.say(f"weights: {command.out}")
    return 0


if __name__ == "__main__":
    main(pretrain, functools.partial(parse_as, Pretraining))
