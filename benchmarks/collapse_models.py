"""What benchmarks/collapse.py compares: one start, a few keys; all weights tuned, or adapters of a rank."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.keys.secret import SecretKey
from orchestrator.models.backbone import patch_projection
from orchestrator.models.keyed import KeyedModel, folded_patch_weights
from orchestrator.models.ref import PLAIN, Method, ModelRef
from orchestrator.models.stored import KeyAccess, load_model, save_model
from orchestrator.models.training_form import TrainingForm
from orchestrator.pipeline.plan import plan_images
from orchestrator.pipeline.progress import PlainReporter
from orchestrator.pipeline.stages import StudyRun
from orchestrator.presets import PRESETS
from orchestrator.seeds import derive_seed
from orchestrator.shards.shard import read_pixels
from orchestrator.store.local import LocalStore
from orchestrator.study import Study
from orchestrator.training.finetune import TrainingUnit, build_trainable
from orchestrator.training.images import open_batches
from orchestrator.training.in_memory import Decoded
from orchestrator.training.place import Place
from orchestrator.training.recipe import Recipe
from orchestrator.training.step import Step, make_optimizer


@dataclass(frozen=True)
class Variant:
    """What is tuned of the plain model once it is behind a key."""

    name: str
    """full; lora-R, rank R on patch embedding and qkv, as in the product; patch-R, on the first alone."""

    @property
    def rank(self) -> int:
        """Of the adapters; 0 where all weights are tuned."""
        return 0 if self.name == "full" else int(self.name.partition("-")[2])

    @property
    def method(self) -> Method:
        """By which the product would train it."""
        return "lora" if self.rank else "full"

    def recipe(self, study: Study) -> Recipe:
        """The study's; an adapter of any rank is scaled by 1, as one of rank 16 is there."""
        if not self.rank:
            return study.recipe
        return replace(study.lora, lora_rank=self.rank, lora_alpha=float(self.rank))


@dataclass(frozen=True)
class Held:
    """Keys drawn for one run, in memory alone; they are written nowhere."""

    keys: tuple[SecretKey, ...]

    def open(self, study: str, slot: int, key_id: str) -> SecretKey:
        """The key in a slot."""
        del study, key_id
        return self.keys[slot]


@dataclass(frozen=True)
class Scene:
    """The plain model, the keys and the images; what is trained goes to a store of the run's own."""

    study: Study
    store: LocalStore
    access: KeyAccess
    keys: Held
    plain: KeyedModel
    clean: Float[Tensor, "clean 3 size size"]
    """Training images in [0, 1]."""
    images: Float[Tensor, "images 3 size size"]
    """Images in [0, 1] to measure on and to attack."""
    labels: Int[Tensor, " images"]
    decoded: Decoded

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(patch_projection(self.plain.backbone).kernel_size[0])

    def start(self, slot: int) -> Float[Tensor, "width values"]:
        """The patch embedding behind a key before it is tuned, on plain pixels in [0, 1]."""
        projection = patch_projection(self.plain.backbone)
        assert projection.bias is not None  # noqa: S101 - patch_projection refuses one without
        shuffle = self.access.transform(_ref(Variant("full"), self, slot), self.study.block_size)
        keyed = KeyedModel(self.plain.backbone, shuffle)
        return folded_patch_weights(keyed, projection.weight, projection.bias)[0].flatten(1)

    def update(self, model: KeyedModel, slot: int) -> Float[Tensor, "width values"]:
        """What training added to the patch embedding behind a key, on plain pixels in [0, 1]."""
        return patch_projection(model.backbone).weight.flatten(1) - self.start(slot)


def study_of(options: argparse.Namespace) -> Study:
    """The preset with the sizes, images and epochs that were given."""
    study = PRESETS[options.preset]()
    names = {
        "patch_size": options.patch_size,
        "width": options.width,
        "depth": options.depth,
        "heads": options.heads,
    }
    architecture = replace(study.architecture, **{k: v for k, v in names.items() if v})
    tuned = {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "warmup_epochs": min(1.0, options.epochs / 5),
        "drop_path": 0.0,
    }
    return replace(
        study,
        name="collapse",
        data=options.data or study.data,
        weights=options.weights,
        architecture=architecture,
        block_size=options.block_size or architecture.patch_size,
        n_keys=options.keys,
        controls=0,
        train_images=options.train_images,
        eval_images=options.eval_images,
        recipe=replace(study.recipe, **tuned, **_rate(options.learning_rate)),
        lora=replace(study.lora, **tuned, **_rate(options.lora_learning_rate)),
    )


def _rate(given: float) -> dict[str, float]:
    """The learning rate, where one was given."""
    return {"learning_rate": given} if given else {}


def prepare(study: Study, root: Path) -> Scene:
    """Shards and plain model in a store below ``root``; the study's number of keys, drawn here."""
    store = LocalStore(root / "store" / study.name)
    run = StudyRun(study, store, str(root / "vault"), LocalWorkplace(), PlainReporter(lambda _: None))
    if run.pretrain() is None:
        raise SystemExit(run.ending.failures[0].reason)
    keys = Held(tuple(SecretKey.generate() for _ in range(study.n_keys)))
    access = KeyAccess(keys=keys, study=study.name)
    record = store.record(f"models/{PLAIN}")
    ref = ModelRef(name=PLAIN, method="plain", recipe=record.recipe)
    plan = plan_images(study)
    train, held = (
        [read_pixels(store, shard.address) for shard in shards] for shards in (plan.train, plan.evaluation)
    )
    return Scene(
        study=study,
        store=store,
        access=access,
        keys=keys,
        plain=load_model(store, ref, study.architecture, access),
        clean=torch.cat([part.pixels for part in train]).float() / 255,
        images=torch.cat([part.pixels for part in held]).float() / 255,
        labels=torch.cat([part.labels for part in held]).long(),
        decoded=Decoded(),
    )


def train(scene: Scene, variant: Variant, slot: int) -> KeyedModel:
    """One model by the product's own training parts, as it is attacked: folded, frozen, on plain images."""
    study, ref = scene.study, _ref(variant, scene, slot)
    recipe = variant.recipe(study)
    unit = TrainingUnit(
        model=ref,
        architecture=study.architecture,
        recipe=recipe,
        block_size=study.block_size,
        shards=tuple(shard.address for shard in plan_images(study).train),
        store=scene.store.uri,
        keys=scene.access,
        seed=derive_seed(study.seed, "model", ref.label),
    )
    trainable = build_trainable(unit, scene.store)
    if variant.name.startswith("patch"):
        _freeze_attention(trainable)
    model = TrainingForm(trainable, study.architecture.image_size)
    _tune(model, unit, scene)
    save_model(scene.store, ref, model.finished(), {})
    return load_model(scene.store, ref, study.architecture, scene.access)


def _tune(model: TrainingForm, unit: TrainingUnit, scene: Scene) -> None:
    """All epochs of a recipe, as finetune() runs them, without its checkpoints."""
    recipe, place = unit.recipe, Place.here()
    optimizer = make_optimizer(model.backbone, recipe, layered=unit.model.method != "lora")
    seed, size = derive_seed(unit.seed, "images"), unit.architecture.image_size
    batches = open_batches(
        scene.store, unit.shards, recipe, place, scene.decoded, seed=seed, image_size=size
    )
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs * batches.steps,
        warmup_t=round(recipe.warmup_epochs * batches.steps),
        warmup_prefix=False,
        t_in_epochs=False,
    )
    step = Step(model.train(), optimizer, recipe, unit.architecture.classes)
    for epoch in range(recipe.epochs):
        for number, batch in enumerate(batches.epoch(epoch)):
            schedule.step_update(epoch * batches.steps + number)
            step(batch, derive_seed(unit.seed, "step", epoch, number, place.rank))


def _freeze_attention(trainable: nn.Module) -> None:
    """Leave the adapters of qkv as they begin, at nothing."""
    for name, parameter in trainable.named_parameters():
        if ".qkv.lora_" in name:
            parameter.requires_grad_(False)


def _ref(variant: Variant, scene: Scene, slot: int) -> ModelRef:
    recipe = {"variant": variant.name, "slot": slot, "block_size": scene.study.block_size}
    key_id = scene.keys.keys[slot].key_id
    name = f"{variant.name}-{slot}"
    return ModelRef(name=name, method=variant.method, slot=slot, key_id=key_id, recipe=recipe)
