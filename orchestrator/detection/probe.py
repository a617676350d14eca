"""Probe: what a model makes of one fixed image; by it a detector knows the model that it was fitted to."""

from dataclasses import dataclass, field
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.errors import WeightsError

# Another device or arithmetic moves logits by thousandths of their size, another training by its whole.
_APART = 0.02


@dataclass(frozen=True)
class Probe:
    """The logits of one fixed image, of the size that the model reads."""

    logits: Float[Tensor, " classes"]
    side: int
    """Of the image, in pixels."""
    _known: "WeakSet[nn.Module]" = field(default_factory=WeakSet, repr=False, compare=False)

    @classmethod
    def of(cls, model: nn.Module, side: int, device: torch.device | str) -> "Probe":
        """What this model makes of it; the model is left as it was found."""
        return cls(_logits(model, side, device), side)

    def check(self, model: nn.Module, device: torch.device | str) -> None:
        """Look whether this is that model; one that passed is not asked again.

        Raises:
            WeightsError: it is another one.
        """
        if model in self._known:
            return
        found = _logits(model, self.side, device)
        near = _APART * self.logits.abs().max().clamp_min(1e-6)
        if found.shape != self.logits.shape or not bool(((found - self.logits).abs() <= near).all()):
            raise WeightsError(
                "This detector was fitted to another model: a known image is read otherwise. Give the "
                "model it was fitted to, or fit a detector of this one."
            )
        self._known.add(model)


@torch.no_grad()
def _logits(model: nn.Module, side: int, device: torch.device | str) -> Float[Tensor, " classes"]:
    # Multiples of the golden ratio: every value in [0, 1) once, no two neighbours alike.
    values = (torch.arange(3 * side * side, dtype=torch.float64) * 0.6180339887498949) % 1
    logits: Tensor = model(values.float().view(1, 3, side, side).to(device))[0]
    return logits.detach().float().cpu()
