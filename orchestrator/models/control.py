"""Control: a model that tells what a key is worth: tuned without one, twice with one, or rekeyed."""

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

ControlKind = Literal["seed", "same-key", "rekeyed"]
_NAME = re.compile(rf"({'|'.join(get_args(ControlKind))})-(\d{{1,5}})")


@dataclass(frozen=True)
class Control:
    """Which control a model is.

    ``seed`` is tuned like the keyed models, without any key, from a seed of its own. ``same-key`` is
    tuned once more with the key of slot ``number``, from another seed. ``rekeyed`` is the model of slot
    ``number`` with its patch embedding rewritten for another key and nothing trained: the same function
    of a plain image (arXiv 2207.05366), so its images must fool its twin every time.
    """

    kind: ControlKind
    number: int

    @property
    def name(self) -> str:
        """The model's name in the matrix, e.g. ``same-key-0``."""
        return f"{self.kind}-{self.number}"


def control_of(name: str) -> Control | None:
    """The control a model's name stands for; None for keyed models, plain and ensembles."""
    found = _NAME.fullmatch(name)
    return Control(cast(ControlKind, found[1]), int(found[2])) if found else None
