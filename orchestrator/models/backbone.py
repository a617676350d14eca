"""Architecture: any timm ViT by name; build it, load plain weights into it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from orchestrator.errors import StudyError, WeightsError, first_line

StateDict = Mapping[str, Tensor]
# Fewer bits need a scale that the file does not hold; whole numbers count steps or places.
_WEIGHT_KINDS = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A timm vision transformer and the sizes this study gives it.

    Raises:
        StudyError: at ``build``, where timm has no such model or it has no patch embedding.
    """

    name: str
    """timm model name, e.g. vit_base_patch16_224.augreg2_in21k_ft_in1k."""
    image_size: int = 224
    """Side of the square input, in pixels."""
    classes: int = 1000
    patch_size: int | None = None
    """Side of a patch in pixels; None keeps the model's own."""
    width: int | None = None
    """Embedding dimension; None keeps the model's own."""
    depth: int | None = None
    """Number of transformer blocks; None keeps the model's own."""
    heads: int | None = None
    """Attention heads per block; None keeps the model's own."""

    def build(self, *, drop_path: float = 0.0, pretrained: bool = False) -> nn.Module:
        """A backbone taking normalised images, with random or timm's pre-trained weights."""
        sizes = {
            "patch_size": self.patch_size,
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": self.heads,
        }
        given = {name: size for name, size in sizes.items() if size is not None}
        try:
            backbone = timm.create_model(
                self.name,
                pretrained=pretrained,
                img_size=self.image_size,
                num_classes=self.classes,
                drop_path_rate=drop_path,
                **given,
            )
        except (RuntimeError, TypeError, ValueError, AssertionError, OSError) as error:
            raise StudyError(
                f"timm cannot build {self.name} ({first_line(error)}). See timm.list_models('vit*'), "
                "or give local weights with --weights."
            ) from None
        patch_projection(backbone, self.name)
        return backbone  # type: ignore[no-any-return]  # timm is untyped

    def recipe(self) -> dict[str, Any]:
        """What enters a model's identity."""
        return asdict(self)


def patch_size_of(backbone: nn.Module) -> int:
    """Side of a patch in pixels."""
    return int(patch_projection(backbone).kernel_size[0])


def patch_projection(backbone: nn.Module, name: str = "The model") -> nn.Conv2d:
    """The convolution that embeds patches: kernel equals stride, with a bias.

    Raises:
        StudyError: there is none.
    """
    projection: Any = getattr(getattr(backbone, "patch_embed", None), "proj", None)
    whole = isinstance(projection, nn.Conv2d) and projection.kernel_size == projection.stride
    if not whole or projection.bias is None:
        raise StudyError(
            f"{name} has no patch embedding of the ViT kind (patch_embed.proj, one step a patch, "
            "with a bias to fold the normalisation into). "
            "Choose a timm vision transformer, e.g. vit_base_patch16_224."
        )
    return cast(nn.Conv2d, projection)


def normalisation_of(backbone: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The (mean, std) per channel that the backbone's pre-training used on [0, 1] pixels."""
    config = backbone.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])  # type: ignore[index]


def parse_weights(content: bytes, origin: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file; pickles are refused, not opened.

    Raises:
        WeightsError: the bytes are not safetensors, or hold values that are no weights.
    """
    try:
        tensors = dict(safetensors.torch.load(content))
    # What this library and torch raise for headers that lie: of shapes, sizes, and kinds of number.
    except (SafetensorError, ValueError, KeyError, TypeError, AssertionError, RuntimeError) as error:
        raise WeightsError(
            f"{origin} is not a safetensors file ({first_line(error)}). Convert it with "
            "safetensors.torch.save_file; pickled checkpoints are never opened."
        ) from None
    for name, tensor in tensors.items():
        if tensor.dtype not in _WEIGHT_KINDS or not tensor.isfinite().all():
            raise WeightsError(
                f"{origin} holds no finite numbers of 16 to 64 bits in {name[:80]} ({tensor.dtype}). "
                "Train or fetch these weights again."
            )
    return tensors


def load_whole(backbone: nn.Module, state: StateDict, origin: str) -> None:
    """Load weights of this very architecture, head included: what the store holds of a model.

    Raises:
        WeightsError: any tensor is missing, unknown or of another shape.
    """
    fresh = load_plain(backbone, state, origin)
    if fresh:
        raise WeightsError(f"{origin} has no {fresh[0]} that fits this model. Delete it and rerun.")


def load_plain(backbone: nn.Module, state: StateDict, origin: str) -> list[str]:
    """Load plain weights; a head of another size is left as it was built, and named in the result.

    Raises:
        WeightsError: any other tensor is missing, unknown or of another shape.
    """
    own = backbone.state_dict()
    heads = {"head.weight", "head.bias"}
    fresh = sorted(
        name for name in heads & own.keys() if name not in state or state[name].shape != own[name].shape
    )
    wrong = [
        f"{name} {tuple(state[name].shape) if name in state else 'absent'} against {tuple(own[name].shape)}"
        if name in own
        else f"{name[:80]} unknown"
        for name in sorted({*own, *state} - set(fresh))
        if name not in own or name not in state or state[name].shape != own[name].shape
    ]
    if wrong:
        raise WeightsError(
            f"{origin} holds weights of another architecture: {len(wrong)} tensors differ, first "
            f"{wrong[0]}. Give the weights of this model, or the --architecture of these weights."
        )
    with torch.no_grad():
        for name in own.keys() - set(fresh):
            own[name].copy_(state[name])
    return fresh
