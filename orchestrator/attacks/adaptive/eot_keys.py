"""EOT over keys: momentum steps on the mean gradient behind random shuffles, taken to the plain image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from orchestrator.attacks.adaptive.guess import known_block_size
from orchestrator.attacks.answer import Found
from orchestrator.attacks.attack import Calls, Need, Points
from orchestrator.attacks.noise import permutations
from orchestrator.attacks.settings import at_least
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Norm, Threat
from orchestrator.attacks.transfer.climb import Pace, Stand, check_pace, climb
from orchestrator.models.transform import CHANNELS, shuffle_rows


@dataclass(frozen=True, kw_only=True)
class EotKeys:
    """Expectation over transformation (Athalye et al. 2018, arXiv 1707.07397) over random keys.

    The attacker has a keyed model's weights and not its key. A stored model is folded: it computes
    f(P x), key P inside, and the key is taken from it by a shuffle in front, f(P Q x). For a uniformly
    random Q the product P Q is uniformly random, whatever P is: so this is the model behind random
    keys, and the shuffle in front gives nothing of P away.

    The gradient goes back through the shuffle to the plain image. The published code (KEY-code of
    arXiv 2010.00801) takes it at the shuffled image and adds it to the plain one, in another order of
    pixels: a wrong direction, and no upper bound on an attacker.

    Args:
        steps: gradient steps.
        keys: shuffles at each step, fresh for each image; each costs one forward and one backward pass.
        reach: length of all steps together, in ε.
        momentum: share of the sum of gradients that lasts to the next step.

    Raises:
        StudyError: steps or keys below 1, reach below 0.001 or momentum below 0; at the call, an
            unknown block size, or blocks that do not tile the images.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2"})
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"block-size", "shuffle"})
    steps: int = 20
    keys: int = 30
    reach: float = 2.0
    momentum: float = 1.0

    def __post_init__(self) -> None:
        at_least(1, self, "keys")
        check_pace(self)

    def __call__(self, source: Source, points: Points, threat: Threat) -> Found:
        """Where the last step ends; the model itself, with its key, is never looked at."""
        size = known_block_size(source)

        def gradient(stand: Stand) -> Float[Tensor, "rows 3 height width"]:
            total = torch.zeros_like(stand.current)
            for stream in range(stand.step * self.keys, (stand.step + 1) * self.keys):
                total += stand.gradient(stand.current, _behind(stand.points, stream, size))
            return total / self.keys

        return climb(source, points, threat, Pace(self.steps, self.reach, self.momentum), gradient)

    def calls(self, classes: int) -> Calls:  # noqa: ARG002 - as many for any number of classes
        """Passes one image costs: one each way a step and key."""
        return Calls(forwards=self.steps * self.keys, backwards=self.steps * self.keys)


def _behind(
    points: Points, stream: int, size: int
) -> Callable[[Float[Tensor, "rows 3 height width"]], Float[Tensor, "rows 3 height width"]]:
    orders = permutations(points.seeds, stream, CHANNELS * size * size)
    return lambda images: shuffle_rows(images, orders, size)
