"""Gather: fingerprints of images, taken while a model reads them; no activation outlives its layer."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchestrator.detection.neurons import NeuronLayout, layers_of
from orchestrator.errors import WeightsError


class Gather:
    """Takes the means of given sets of neurons, each a fingerprint, in a model's forward pass.

    Besides the activations that the model itself makes, a batch takes memory for batch × fingerprints
    and, for a moment, one layer's activations once more.

    Args:
        layout: of the model.
        members: numbers of neurons, one row a fingerprint.
    """

    def __init__(self, layout: NeuronLayout, members: Int[Tensor, "fingerprints neurons"]) -> None:
        self.layout, self.fingerprints, self.neurons = layout, len(members), members.shape[1]
        self._places: list[tuple[Tensor, Tensor]] = []
        for first, size in zip(layout.offsets, layout.sizes, strict=True):
            inside = (members >= first) & (members < first + size)
            counts = inside.sum(dim=1)
            starts = (counts.cumsum(0) - counts).to(members.dtype)
            self._places.append((members[inside] - first, starts))

    @contextmanager
    def reading(self, model: nn.Module) -> Iterator["Values"]:
        """Hooks on the layers while the context lasts; the model is left as it was found.

        Raises:
            WeightsError: the model has other layers than the layout.
        """
        values = Values(self)
        with ExitStack() as hooks:
            for place, layer in enumerate(layers_of(model, self.layout)):

                def take(_module: nn.Module, _given: Any, output: Tensor, place: int = place) -> None:
                    values.take(place, output)

                hooks.callback(layer.register_forward_hook(take).remove)
            yield values

    def sums(self, place: int, output: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch fingerprints"]:
        """The sum of each fingerprint's neurons in one layer; differentiable.

        Raises:
            WeightsError: the layer is of another shape than the layout says.
        """
        if tuple(output.shape[1:]) != self.layout.shapes[place]:
            raise WeightsError(
                f"Layer {self.layout.layers[place]} gives {tuple(output.shape[1:])} for an image, and its "
                f"detector reads {self.layout.shapes[place]}. Fit a detector of this model at this size."
            )
        members, starts = (tensor.to(output.device) for tensor in self._places[place])
        # A bag is a fingerprint, a row a neuron: every sum is taken in one order, whatever the batch.
        columns = output.flatten(1).T.contiguous()
        return F.embedding_bag(members, columns, starts, mode="sum").T


class Values:
    """What was gathered in one forward pass."""

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        # A model may call a layer several times in a pass, for some images each time.
        self._sums: list[list[Tensor]] = [[] for _ in gather.layout.layers]

    def take(self, place: int, output: Float[Tensor, "batch ..."]) -> None:
        """Note what a layer gave."""
        self._sums[place].append(self._gather.sums(place, output))

    def means(self) -> Float[Tensor, "batch fingerprints"]:
        """The fingerprints of the images that were read since last asked; the next pass starts afresh.

        Raises:
            WeightsError: a layer was not reached.
        """
        if not all(self._sums):
            name = self._gather.layout.layers[[bool(each) for each in self._sums].index(False)]
            raise WeightsError(f"The model was read without its layer {name}. Choose another to watch.")
        total = sum((torch.cat(parts) for parts in self._sums[1:]), torch.cat(self._sums[0]))
        self._sums = [[] for _ in self._sums]
        return total / self._gather.neurons
