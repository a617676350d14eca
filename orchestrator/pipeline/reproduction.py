"""Reproduction: the studies behind the paper's tables and figure, one a block size and seed; presets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from orchestrator.attacks.threat import Threat
from orchestrator.errors import StudyError
from orchestrator.presets import cifar10, digits, imagenet
from orchestrator.study import Study


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One study of a reproduction."""

    block_size: int
    seed: int
    study: Study


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What is to be reproduced, and how; what the paper does not state is a setting.

    Raises:
        StudyError: a value is out of range, or Table I's threat is not among the study's.
    """

    study: Study
    """What all its studies have in common. Their names begin with its name."""
    block_sizes: tuple[int, ...]
    """Sides of the shuffled blocks in pixels; the paper's 4, 8 and 16 are ¼, ½ and all of its patch."""
    table_threat: str
    """The ℓ∞ threat of Table I; the study's other ℓ∞ threats are Fig. 4's alone."""
    seeds: int = 1
    """How often all is run from the start: other plain models, other keys, other batches."""

    def __post_init__(self) -> None:
        if not self.block_sizes or len(set(self.block_sizes)) < len(self.block_sizes):
            raise StudyError("--block-sizes names none, or one of them twice. Give e.g. 4 8 16.")
        if self.seeds < 1:
            raise StudyError(f"--seeds is {self.seeds}. Give at least 1.")
        every = [str(threat) for ladder in self.study.parsed_ladders() for threat in ladder.threats]
        wanted = str(Threat.parse(self.table_threat))
        if wanted not in every:
            raise StudyError(
                f"--table-threat {wanted} is not attacked. Add it to --threats {' '.join(every)}."
            )
        _ = self.trials  # block sizes that do not fit are refused here

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The studies in the order in which they are run: seed by seed, small blocks first."""
        first = self.study.seed
        return tuple(
            self._trial(block_size, seed)
            for seed in range(first, first + self.seeds)
            for block_size in sorted(self.block_sizes)
        )

    def _trial(self, block_size: int, seed: int) -> Trial:
        again = f"-s{seed}" if seed != self.study.seed else ""
        name = f"{self.study.name}-m{block_size}{again}"
        study = replace(self.study, name=name, block_size=block_size, seed=seed)
        return Trial(block_size=block_size, seed=seed, study=study)


_L2 = ("l2:0.5", "l2:2", "l2:3")


def _digits() -> Reproduction:
    """Digits, patches of 8 px: blocks of 2, 4 and 8. APGD-CE in AutoAttack's place, to take minutes."""
    study = replace(
        digits(),
        name="paper-digits",
        method="both",
        controls=0,
        threats=("linf:2/255", "linf:4/255", "linf:8/255", "linf:16/255", *_L2),
    )
    return Reproduction(study=study, block_sizes=(2, 4, 8), table_threat="linf:8/255")


def _cifar10() -> Reproduction:
    """CIFAR-10, patches of 4 px: blocks of 2 and 4; a block of one pixel would have 3! = 6 keys."""
    study = replace(
        cifar10(),
        name="paper-cifar10",
        method="both",
        controls=0,
        threats=("linf:2/255", "linf:4/255", "linf:8/255", "linf:16/255", *_L2),
    )
    return Reproduction(study=study, block_sizes=(2, 4), table_threat="linf:8/255")


def _imagenet() -> Reproduction:
    """The paper's own setting. Four of the keys are attacked, each on all: the paper attacked one."""
    study = replace(
        imagenet(),
        name="paper-imagenet",
        method="both",
        sources=4,
        threats=("linf:1/255", "linf:2/255", "linf:4/255", "linf:8/255", "linf:16/255", *_L2),
    )
    return Reproduction(study=study, block_sizes=(4, 8, 16), table_threat="linf:4/255")


REPRODUCTIONS: Mapping[str, Callable[[], Reproduction]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "imagenet": _imagenet,
}
