"""LoRA adapters on patch embedding and qkv: add, extract, merge; PEFT is needed for training alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.errors import StudyError, WeightsError

PATCH = "patch_embed.proj"
PATCH_WEIGHT, PATCH_BIAS = f"{PATCH}.weight", f"{PATCH}.bias"
HEAD = "head"
HEAD_WEIGHT, HEAD_BIAS = f"{HEAD}.weight", f"{HEAD}.bias"
# What an adapter holds whole; all else in it are low-rank factors.
WHOLE = (PATCH_WEIGHT, PATCH_BIAS, HEAD_WEIGHT, HEAD_BIAS)
_TARGETS = [PATCH, "attn.qkv"]


def add_lora(backbone: nn.Module, *, rank: int, alpha: float, dropout: float) -> nn.Module:
    """The backbone with PEFT adapters on ``patch_embed.proj`` and every ``attn.qkv``; head trained.

    All else is frozen. ViT-B/16 with rank 16 has 1,383,400 trainable parameters, as in Table II of
    arXiv 2311.16577.
    """
    # Imported here: peft brings in transformers (1.5 s), and attack workers never need it.
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        target_modules=_TARGETS,
        modules_to_save=[HEAD],
    )
    try:
        return get_peft_model(backbone, config)  # type: ignore[no-any-return]  # peft is untyped
    except ValueError as error:
        raise StudyError(
            f"LoRA finds no {' or '.join(_TARGETS)} in this model ({str(error)[:120]}). "
            "Use a timm ViT, or --method full."
        ) from None


@torch.no_grad()
def adapter_state(adapted: nn.Module) -> dict[str, Tensor]:
    """What training added: low-rank factors, the merged patch embedding and the head.

    A layer NAME has ``NAME.down`` and ``NAME.up`` with ΔW = up @ down. The patch embedding is merged
    so that the key can be folded into it: a keyed model's adapter is then complete without the key.
    """
    state: dict[str, Tensor] = {}
    inner: Any = adapted.base_model
    modules: dict[str, Any] = dict(inner.model.named_modules())
    for name, module in modules.items():
        if not hasattr(module, "lora_A"):
            continue
        if name == PATCH:
            state[PATCH_WEIGHT] = module.weight + module.get_delta_weight("default")
            state[PATCH_BIAS] = module.bias
        else:
            down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
            state[f"{name}.down"] = down
            state[f"{name}.up"] = up * module.scaling["default"]
    head = modules[HEAD].modules_to_save["default"]
    state |= {f"{HEAD}.{name}": tensor for name, tensor in head.state_dict().items()}
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


@torch.no_grad()
def merge_adapter(backbone: nn.Module, state: Mapping[str, Tensor], origin: str) -> nn.Module:
    """Add an extracted adapter to plain weights, in place; no PEFT left in the result.

    Raises:
        WeightsError: it was extracted from another architecture, or is no adapter.
    """
    own = backbone.state_dict()
    check_adapter(own, state, origin)
    for name, tensor in state.items():
        if name.endswith(".up"):
            continue
        if name.endswith(".down"):
            layer = name.removesuffix(".down")
            own[f"{layer}.weight"] += state[f"{layer}.up"] @ tensor
        else:
            own[name].copy_(tensor)
    return backbone


def check_adapter(own: Mapping[str, Tensor], state: Mapping[str, Tensor], origin: str) -> None:
    """Raise WeightsError unless an extracted adapter is whole and fits a model's own tensors."""
    strange = [name for name in state if not _fits(name, state, own)]
    strange += [name for name in WHOLE if name not in state]
    if strange:
        raise WeightsError(
            f"{origin} is no adapter of this model ({strange[0][:80]}). Delete it and rerun."
        )


def _fits(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether a tensor of an adapter has its place in the model, and its counterpart where it has one."""
    layer, _, part = name.rpartition(".")
    if part not in ("down", "up"):
        return name in own and state[name].shape == own[name].shape
    down, up, weight = state.get(f"{layer}.down"), state.get(f"{layer}.up"), own.get(f"{layer}.weight")
    if down is None or up is None or weight is None or not down.ndim == up.ndim == weight.ndim == 2:
        return False
    return up.shape[1] == down.shape[0] and (up.shape[0], down.shape[1]) == weight.shape
