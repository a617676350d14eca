"""Published: the numbers of the paper (arXiv 2311.16577) that ours are held beside, as printed there."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

PATCH = 16
"""Side of a patch of its ViT-B/16, in pixels."""


@dataclass(frozen=True)
class Printed:
    """A row of Table I: accuracies in percent over ImageNet's 50,000 validation images; nan for a dash."""

    clean: float
    linf: tuple[float, float]
    """Under ℓ∞: non-adaptive, adaptive."""
    l2: tuple[float, float]
    """Under ℓ2: non-adaptive, adaptive."""


@dataclass(frozen=True)
class Trained:
    """What section IV-C says one fine-tune took."""

    minutes: int
    gpus: int

    @property
    def gpu_hours(self) -> float:
        """Time on all its GPUs (NVIDIA A100) together."""
        return self.minutes * self.gpus / 60


PLAIN_ROW = Printed(85.10, (0.0, nan), (0.32, nan))
KEYED_ROWS: Mapping[tuple[str, int], Printed] = {
    ("full", 4): Printed(83.40, (78.76, 81.45), (81.89, 82.17)),
    ("full", 8): Printed(82.62, (78.84, 80.68), (81.60, 81.46)),
    ("full", 16): Printed(82.02, (78.69, 79.58), (81.10, 80.67)),
    ("lora", 4): Printed(81.12, (78.44, 51.56), (80.04, 53.26)),
    ("lora", 8): Printed(79.94, (78.69, 7.62), (79.94, 7.63)),
    ("lora", 16): Printed(79.71, (78.96, 0.73), (79.42, 0.72)),
}
"""Table I by method and block size. Its rows of other architectures and defences are not run here."""
PARAMETERS: Mapping[str, str] = {"full": "86.57", "lora": "1.38 (1.57 %)"}
"""Table II, in millions."""
TRAINED: Mapping[str, Trained] = {"full": Trained(900, 4), "lora": Trained(1200, 1)}
"""Section IV-C; both times are "about"."""


def counterpart(block_size: int, patch_size: int) -> int | None:
    """The paper's block size that is the same share of its patch; None where it has none."""
    side, rest = divmod(block_size * PATCH, patch_size)
    return side if not rest and ("full", side) in KEYED_ROWS else None


def printed(method: str, block: int | None) -> Printed | None:
    """The paper's row of a method and block size, if it has one."""
    return KEYED_ROWS.get((method, block)) if block else None
