"""Scenes of the attack benches: keyed digits models in a store, and the ResNet in pyautoattack's wheel."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pyautoattack
import torch
from torch import Tensor, nn

from orchestrator.attacks import attack_settings, parse_attack
from orchestrator.attacks.threat import Ladder
from orchestrator.keys.vault import VaultAt
from orchestrator.models.ensemble import SourceRef
from orchestrator.models.ref import PLAIN, ModelRef
from orchestrator.models.stored import load_model
from orchestrator.pipeline.plan import make_plan, plan_images
from orchestrator.pipeline.roster import ensure_keys
from orchestrator.presets import digits
from orchestrator.shards.shard import Shard, write_shard
from orchestrator.shards.sources import ParquetFiles
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.local import LocalStore
from orchestrator.store.record import recipe_digest
from orchestrator.training.finetune import finetune
from orchestrator.training.place import Place
from orchestrator.transfer.held import LoadModel, Pixels, Shards
from orchestrator.transfer.work import WorkUnit
from orchestrator.transfer.worker import TransferWorker

LOSSLESS = "test_lossless_subset.parquet"


class Meter:
    """Counts the images that anyone passes forward and back through models; answers stay as they are."""

    def __init__(self) -> None:
        self.forwards = self.backwards = 0

    def watch(self, model: nn.Module) -> nn.Module:
        """Count whatever this model is shown from now on."""
        model.register_forward_pre_hook(self._shown)
        return model

    def _shown(self, _: nn.Module, shown: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        images = shown[0]
        self.forwards += len(images)
        if not (images.requires_grad and torch.is_grad_enabled()):
            return None
        # A tensor of this call's own: callers show the same one again.
        seen = images.view_as(images)
        seen.register_hook(self._back)
        return (seen,)

    def _back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@dataclass(frozen=True)
class Scene:
    """Models, and the store that they and the attacked images are in."""

    name: str
    store: ArtifactStore
    models: tuple[ModelRef, ...]
    shards: tuple[Shard, ...]
    """All images, and, for what is slow, a share of them."""
    load: LoadModel

    @property
    def keyed(self) -> tuple[ModelRef, ...]:
        """The models behind keys."""
        return tuple(model for model in self.models if model.method != "plain")

    def pixels(self, shard: Shard) -> Pixels:
        """The images of a shard."""
        return Shards(self.store, torch.device("cpu")).get(shard.address)

    def worker(self, meter: Meter) -> TransferWorker:
        """A worker that has met nothing yet; every pass through its models is counted."""
        return TransferWorker(self.store.uri, lambda store, ref: meter.watch(self.load(store, ref)))

    def unit(
        self, attack: str, threat: str, source: SourceRef, targets: Iterable[ModelRef], shard: Shard
    ) -> WorkUnit:
        """One attack on one source, tried on these targets."""
        name, parsed = parse_attack(attack)
        return WorkUnit(
            attack=name,
            settings=attack_settings(parsed),
            ladder=Ladder.parse(threat),
            source=source,
            shard=shard.address,
            shard_digest=recipe_digest(shard.recipe),
            targets=tuple(targets),
            seed=0,
        )


def digits_scene(root: Path, images: int, share: int, say: Callable[[str], None]) -> Scene:
    """Four keyed models and the plain one, trained here as the digits preset trains them."""
    study = replace(digits(), controls=0, eval_images=images, shard_rows=images)
    store, vault = LocalStore(root / "store" / study.name), str(root / "vault")
    key_ids = ensure_keys(study, store, vault)
    plan = make_plan(study, plan_images(study), key_ids, store.uri, VaultAt(vault))
    whole = plan.eval_shards[0]
    part = replace(whole, index=len(plan.eval_shards), items=whole.items[:: images // share][:share])
    for shard in (*plan.shards, part):
        write_shard(store, shard)
    for unit in (plan.plain, *plan.keyed):
        say(f"training {unit.id}")
        finetune(unit, Place.here(), lambda _: None)
    load = functools.partial(load_model, architecture=study.architecture, keys=plan.plain.keys)
    return Scene("digits", store, plan.models, (whole, part), load)


def resnet_scene(root: Path, data: Path, images: int, share: int) -> Scene:
    """The ResNet-18 that the authors ship, and the first exact CIFAR-10 test images.

    Raises:
        FileNotFoundError: the images are not there.
    """
    if not (data / LOSSLESS).is_file():
        raise FileNotFoundError(f"{data / LOSSLESS} is not there")
    store = LocalStore(root / "store" / "resnet")
    # The only split there is; a study would look for a training split beside it.
    linked = root / "cifar10"
    linked.mkdir(parents=True)
    (linked / "test.parquet").symlink_to((data / LOSSLESS).resolve())
    items = ParquetFiles(str(linked), (("eval", "test.parquet"),)).items("eval")
    whole = Shard(
        split="eval",
        index=0,
        data=str(linked),
        items=tuple(items[:images]),
        image_size=32,
        crop_fraction=1.0,
        encoded=False,
    )
    part = replace(whole, index=1, items=whole.items[:share])
    for shard in (whole, part):
        write_shard(store, shard)
    plain = ModelRef(name=PLAIN, method="plain", recipe={"model": "pyautoattack/examples/model_test.pt"})
    return Scene("CIFAR-10 ResNet-18", store, (plain,), (whole, part), _resnet)


def _resnet(_: ArtifactStore, ref: ModelRef) -> nn.Module:
    from pyautoattack.examples.resnet import ResNet18

    model = ResNet18()
    weights = Path(pyautoattack.__file__).parent.parent / str(ref.recipe["model"])
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False)
