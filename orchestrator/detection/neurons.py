"""Neurons: the activations of some layers of a model, numbered once and for all by a layout."""

import fnmatch
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.errors import StudyError, WeightsError

# Layers of the usual families that are read where none are named; the released code of the method
# (fingerprints-armor 1.0.1) takes the last five children of 1000 parameters or more, which are these of
# Inception-v3. Of a ViT that would be all blocks as one, so the last four are read one by one.
_VIT_BLOCKS = 4
_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "Mixed_7c": ("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "fc"),
    "layer4": ("layer2", "layer3", "layer4", "fc"),
}


@dataclass(frozen=True)
class NeuronLayout:
    """Which neurons there are: those of the layers in this order, each layer flattened, logits included."""

    layers: tuple[str, ...]
    """Names of modules, without what stands before the backbone, e.g. ``blocks.3``."""
    shapes: tuple[tuple[int, ...], ...]
    """What each gives for one image."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Neurons of each layer."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """The number of each layer's first neuron."""
        return (0, *accumulate(self.sizes))[:-1]

    @property
    def total(self) -> int:
        """All neurons."""
        return sum(self.sizes)

    @property
    def recipe(self) -> dict[str, Any]:
        """The layout as plain values."""
        return {"layers": list(self.layers), "shapes": [list(shape) for shape in self.shapes]}

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "NeuronLayout":
        """The layout that ``recipe`` wrote down."""
        shapes = (tuple(int(side) for side in shape) for shape in recipe["shapes"])
        return cls(tuple(str(name) for name in recipe["layers"]), tuple(shapes))


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by name; what stands before its backbone is left out of the names."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        short = name.rpartition("backbone.")[2]
        if short and short != "backbone" and not name.endswith("backbone"):
            found.setdefault(short, module)
    return found


def choose_layers(model: nn.Module, patterns: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of layers that match a pattern, in the model's order; the family's own where none is given.

    Args:
        model: any timm model, or one around it.
        patterns: names, or patterns such as ``blocks.*.mlp`` (a star also stands for dots).

    Raises:
        StudyError: a pattern matches no layer, or the model is of no known family and none is given.
    """
    layers = named_layers(model)
    patterns = patterns or _own_layers(layers)
    if not patterns:
        raise StudyError(
            f"Which layers of this model ({type(model).__name__}) to read is not known. "
            f"Name some of them, e.g. {', '.join(list(layers)[-3:])}."
        )
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise StudyError(
                f"No layer of this model is called {pattern}. Its last ones are "
                f"{', '.join(list(layers)[-3:])}."
            )
    return tuple(name for name in layers if any(fnmatch.fnmatchcase(name, p) for p in patterns))


def _own_layers(layers: Mapping[str, nn.Module]) -> tuple[str, ...]:
    blocks = [name for name in layers if name.startswith("blocks.") and name.count(".") == 1]
    if blocks and "blocks.0.attn" in layers:
        return (*blocks[-_VIT_BLOCKS:], *(name for name in ("norm", "head") if name in layers))
    return next((names for sign, names in _FAMILIES.items() if sign in layers), ())


@torch.no_grad()
def layout_of(
    model: nn.Module, like: Float[Tensor, "_ 3 height width"], patterns: Sequence[str] = ()
) -> NeuronLayout:
    """The layout of a model for images of a size.

    Args:
        model: in eval mode.
        like: images of that size; the first is shown to the model once.
        patterns: see ``choose_layers``.

    Raises:
        StudyError: see ``choose_layers``; or a layer gives something other than one tensor, or nothing.
    """
    names = choose_layers(model, patterns)
    layers, shapes = named_layers(model), dict[str, tuple[int, ...]]()
    with ExitStack() as hooks:
        for name in names:

            def note(_module: nn.Module, _given: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor) and len(output):
                    shapes[name] = tuple(output.shape[1:])

            hooks.callback(layers[name].register_forward_hook(note).remove)
        model(like[:1])
    for name in names:
        if not prod(shapes.get(name, (0,))):
            raise StudyError(f"Layer {name} gives no tensor for an image. Choose another layer to read.")
    return NeuronLayout(names, tuple(shapes[name] for name in names))


def layers_of(model: nn.Module, layout: NeuronLayout) -> list[nn.Module]:
    """The modules a layout names.

    Raises:
        WeightsError: the model has no such layer.
    """
    layers = named_layers(model)
    for name in layout.layers:
        if name not in layers:
            raise WeightsError(
                f"This model has no layer {name}, which its detector reads. Fit a detector of its own."
            )
    return [layers[name] for name in layout.layers]
