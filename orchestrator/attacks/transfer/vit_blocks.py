"""ViT blocks of a source, and temporary changes to what passes through them, always taken back."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.attacks.source import Source
from orchestrator.errors import StudyError
from orchestrator.models.backbone import patch_size_of

Change = Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]


def vit_blocks(source: Source) -> list[Any]:
    """The transformer blocks of all models, each once: modules with ``attn.qkv`` and ``mlp``.

    Raises:
        StudyError: a model has none.
    """
    found: dict[nn.Module, None] = {}
    for model in source.models:
        blocks = [module for module in model.modules() if _is_block(module)]
        if not blocks:
            raise StudyError(
                f"A model ({type(model).__name__}) has no blocks of the ViT kind (attn.qkv beside mlp) for "
                "this attack to reach into. Attack it with mi-fgsm, or choose a timm vision transformer."
            )
        found.update(dict.fromkeys(blocks))
    return list(found)


def patch_side(source: Source) -> int:
    """Side of a patch in pixels, of the first model.

    Raises:
        StudyError: it has no patch embedding of the ViT kind.
    """
    model = source.models[0]
    embedding = (module for module in model.modules() if hasattr(module, "patch_embed"))
    return patch_size_of(next(embedding, model))


def changing(output_of: nn.Module, change: Change) -> Any:
    """Pass a module's output through ``change`` from now on; the handle takes that back."""
    return output_of.register_forward_hook(lambda _module, _given, output: change(output))


def regularise(tensor: Float[Tensor, "..."], rule: Change) -> Float[Tensor, "..."]:
    """The same values, whose gradient is passed through ``rule`` on its way back."""
    if not tensor.requires_grad:
        return tensor
    # A view of its own: the rule shall not see what reaches the tensor by other ways.
    same = tensor.view_as(tensor)
    same.register_hook(rule)  # type: ignore[no-untyped-call]
    return same


@contextmanager
def attention_unfused(blocks: list[Any]) -> Iterator[None]:
    """Have the attention of these blocks written out, so that its map exists; then as it was."""
    with ExitStack() as undo:
        for block in blocks:
            undo.callback(setattr, block.attn, "fused_attn", block.attn.fused_attn)
            block.attn.fused_attn = False
        yield


def _is_block(module: nn.Module) -> bool:
    attention = getattr(module, "attn", None)
    return isinstance(getattr(attention, "qkv", None), nn.Linear) and hasattr(module, "mlp")
