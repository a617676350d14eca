"""The fleet of one method: a model for every key, and the controls that tell what a key is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.models.backbone import patch_size_of
from orchestrator.models.control import Control
from orchestrator.models.ref import Method, ModelRef
from orchestrator.study import Study


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Models of one training method, before any is made."""

    keyed: tuple[ModelRef, ...]
    """One a key, in slot order."""
    controls: tuple[ModelRef, ...]
    """Those that are trained: without a key, and once more with a key of the fleet."""
    rekeyed: ModelRef | None
    """The first key's model rewritten for the second key; None where nothing is to be compared."""


def plan_fleet(study: Study, method: Method, key_ids: Sequence[str], plain: str, data: str) -> Fleet:
    """The models of a method.

    Args:
        study: its settings; ``controls`` says how many of each kind of control are trained.
        method: full or lora.
        key_ids: the public ids of the keys, in slot order.
        plain: digest of the plain model.
        data: digest of the training images.
    """
    trained = _Recipes(study, method, plain, data)
    keyed = [trained.ref(key_id, slot, key_id) for slot, key_id in enumerate(key_ids)]
    controls = [trained.ref(Control("seed", number).name) for number in range(study.controls)]
    controls += [
        trained.ref(Control("same-key", slot).name, slot, key_id)
        for slot, key_id in enumerate(key_ids[: study.controls])
    ]
    rekeyed = None
    if study.controls and len(keyed) > 1 and _folds(study):
        name = Control("rekeyed", 0).name
        fixed = {
            name: value for name, value in study.fixed().items() if name in ("block_size", "transform")
        }
        recipe: dict[str, Any] = {"kind": method, "control": name, **fixed}
        recipe |= {"twin": keyed[0].digest, "key_id": key_ids[1]}
        rekeyed = ModelRef(name=name, method=method, slot=1, key_id=key_ids[1], recipe=recipe)
    return Fleet(keyed=tuple(keyed), controls=tuple(controls), rekeyed=rekeyed)


@dataclass(frozen=True)
class _Recipes:
    """What the models of a method have in common."""

    study: Study
    method: Method
    plain: str
    data: str

    def ref(self, name: str, slot: int = -1, key_id: str = "") -> ModelRef:
        """A model to be trained; without a slot it has no key. Its seed follows from its name."""
        recipe: dict[str, Any] = {
            "kind": self.method,
            **self.study.fixed(),
            "key_id": key_id,
            "plain": self.plain,
            "data": self.data,
            "training": self.study.recipe_of(self.method).identity(self.method),
        }
        if name != key_id:
            recipe["control"] = name
        return ModelRef(
            name=name,
            method=self.method,
            slot=slot,
            key_id=key_id if name != key_id else "",
            recipe=recipe,
        )


def _folds(study: Study) -> bool:
    # FFX is the one transform that is not affine.
    return study.transform != "ffx" and patch_size_of(study.architecture.build()) % study.block_size == 0
