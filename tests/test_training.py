"""Training: resumable at any epoch with the same weights; every option of a recipe runs."""

from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from conftest import run_locally, small_study
from orchestrator.errors import DataError, StoreError, StudyError
from orchestrator.keys.vault import VaultAt
from orchestrator.models.stored import WEIGHTS_FILE
from orchestrator.pipeline.plan import make_plan, plan_images
from orchestrator.pipeline.roster import ensure_keys
from orchestrator.shards.shard import write_shard
from orchestrator.store.local import LocalStore
from orchestrator.training.batches import Batches, Share
from orchestrator.training.checkpoint import CheckpointWriter, Progress, last_checkpoint
from orchestrator.training.finetune import EpochLine, TrainingUnit, finetune
from orchestrator.training.images import open_batches
from orchestrator.training.in_memory import Decoded, augment
from orchestrator.training.place import Place
from orchestrator.training.randomness import seeded
from orchestrator.training.recipe import Recipe

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for a process that ends between two epochs; nothing may catch it."""


def planned(store: LocalStore, vault: str, **changes) -> list[TrainingUnit]:
    """The training units of a small study whose shards are cut: plain first."""
    study = small_study(**changes)
    plan = make_plan(study, plan_images(study), ensure_keys(study, store, vault), store.uri, VaultAt(vault))
    for shard in plan.shards:
        write_shard(store, shard)
    return [plan.plain, *plan.keyed]


def train(unit: TrainingUnit, kill_after: int = 0) -> list[EpochLine]:
    lines: list[EpochLine] = []

    def tell(line: EpochLine) -> None:
        lines.append(line)
        if line.epoch == kill_after:
            raise Killed

    finetune(unit, Place.here(), tell)
    return lines


def batches_of(
    store: LocalStore, unit: TrainingUnit, recipe: Recipe, rank: int = 0, size: int = 1, loaders: int = 0
) -> Batches:
    """What one process of a group gets."""
    place = Place(rank=rank, size=size, device=CPU, loaders=loaders)
    return open_batches(store, unit.shards, recipe, place, Decoded(), seed=5, image_size=32)


def weights(store: LocalStore, unit: TrainingUnit) -> bytes:
    return store.read(unit.model.address, WEIGHTS_FILE)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_killed_training_resumes_to_the_same_bytes(tmp_path: Path, vault: str, method: str) -> None:
    three = {"epochs": 3, "warmup_epochs": 1.0, "mixup": 0.2, "cutmix": 1.0, "drop_path": 0.1}
    recipe = replace(small_study().recipe, **three, augment="shift-flip")
    made = {}
    for name in ("undisturbed", "killed"):
        store = LocalStore(tmp_path / name)
        plain, keyed, _ = planned(store, vault, method=method, recipe=recipe, lora=recipe)
        train(plain)
        if name == "killed":
            with pytest.raises(Killed):
                train(keyed, kill_after=2)
            assert not store.has(keyed.model.address)
            assert [line.epoch for line in train(keyed)] == [3]
        else:
            assert [line.epoch for line in train(keyed)] == [1, 2, 3]
        assert list(store.addresses("checkpoints")) == []
        made[name] = weights(store, keyed)
    assert made["undisturbed"] == made["killed"]


class Slow(LocalStore):
    """A folder that commits nothing until it is let."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.let = Event()

    def commit(self, *what) -> bool:
        assert self.let.wait(30)
        return super().commit(*what)


def test_training_goes_on_while_its_checkpoint_is_written(tmp_path: Path, vault: str) -> None:
    unit = planned(LocalStore(tmp_path), vault)[0]
    store, layer = Slow(tmp_path), torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    held = layer.weight.detach().clone()
    with CheckpointWriter(store, unit.model) as writer:
        writer.save(layer, optimizer, Progress(epochs_done=1))
        with torch.no_grad():
            layer.weight.zero_()
        assert last_checkpoint(store, unit.model) == 0
        store.let.set()
    assert last_checkpoint(store, unit.model) == 1
    state = safetensors.torch.load(store.read("checkpoints/plain/00001", "state.safetensors"))
    assert torch.equal(state["model.weight"], held)


def test_a_checkpoint_that_cannot_be_written_ends_the_training(tmp_path: Path, vault: str) -> None:
    unit = planned(LocalStore(tmp_path / "store"), vault)[0]
    (tmp_path / "file").touch()
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    with (
        pytest.raises(StoreError, match="cannot be written"),
        CheckpointWriter(LocalStore(tmp_path / "file"), unit.model) as writer,
    ):
        writer.save(layer, optimizer, Progress(epochs_done=1))


def test_images_are_decoded_once_for_all_models_of_a_process(store: LocalStore, vault: str) -> None:
    unit, decoded = planned(store, vault)[0], Decoded()
    pixels, _ = decoded.get(store, unit.shards, CPU)
    assert decoded.get(store, unit.shards, CPU)[0] is pixels
    fewer, labels = decoded.get(store, unit.shards[1:], CPU)
    assert len(fewer) == len(labels) < len(pixels)
    assert torch.equal(decoded.get(store, unit.shards, CPU)[0], pixels)


def test_models_that_share_decoded_images_are_those_that_do_not(tmp_path: Path, vault: str) -> None:
    made = {}
    for name, decoded in (("shared", Decoded()), ("apart", None)):
        store = LocalStore(tmp_path / name)
        units = planned(store, vault)
        for unit in units:
            finetune(unit, Place.here(), lambda _: None, decoded)
        made[name] = [weights(store, unit) for unit in units]
    assert made["shared"] == made["apart"]


def test_an_epoch_tells_how_long_it_waited_for_images(store: LocalStore, vault: str) -> None:
    (line,) = train(planned(store, vault)[0])
    assert 0 < line.waited < line.seconds


def test_a_finished_training_is_not_done_again(store: LocalStore, vault: str) -> None:
    plain = planned(store, vault)[0]
    assert len(train(plain)) == 1
    assert train(plain) == []


def test_models_of_different_keys_differ_and_start_from_the_plain_one(
    store: LocalStore, vault: str
) -> None:
    plain, one, two = planned(store, vault)
    for unit in (plain, one, two):
        train(unit)
    assert len({weights(store, unit) for unit in (plain, one, two)}) == 3


def test_training_leaves_global_randomness_as_it_was(store: LocalStore, vault: str) -> None:
    plain = planned(store, vault)[0]
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    train(plain)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    # Python's own generator is left out: the type checker of these tests draws from it.


def test_shares_of_a_batch_make_up_the_whole(store: LocalStore, vault: str) -> None:
    unit = planned(store, vault)[0]
    recipe = replace(unit.recipe, augment="shift-flip")
    whole = next(batches_of(store, unit, recipe).epoch(3))
    parts = [next(batches_of(store, unit, recipe, rank, 2).epoch(3)) for rank in (0, 1)]
    for place in (0, 1):
        assert torch.equal(whole[0][place::2], parts[place][0])
        assert torch.equal(whole[1][place::2], parts[place][1])


def test_epochs_are_shuffled_differently_and_repeatably(store: LocalStore, vault: str) -> None:
    unit = planned(store, vault)[0]
    batches = batches_of(store, unit, unit.recipe)
    labels = [[y.tolist() for _, y in batches.epoch(epoch)] for epoch in (0, 1, 0)]
    assert labels[0] == labels[2] != labels[1]


def test_streamed_images_are_augmented_the_same_by_any_loaders(
    tmp_path: Path, vault: str, store: LocalStore
) -> None:
    for number in range(12):
        folder = tmp_path / "data" / ("train" if number < 8 else "val") / f"c{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpeg")
    recipe = Recipe(epochs=1, batch_size=4, augment="inception")
    changes = {"data": str(tmp_path / "data"), "base": recipe, "recipe": recipe, "train_images": 0}
    unit = planned(store, vault, **changes)[0]
    seen = []
    for loaders in (0, 1):
        batches = batches_of(store, unit, recipe, loaders=loaders)
        before = torch.get_rng_state()
        seen.append([*batches.epoch(0), *batches.epoch(1)])
        assert torch.equal(before, torch.get_rng_state())
    assert len(seen[0]) == 4
    assert not torch.equal(seen[0][0][0], seen[0][2][0])
    for here, there in zip(*seen, strict=True):
        assert torch.equal(here[0], there[0])
        assert torch.equal(here[1], there[1])
    assert 0 <= seen[0][0][0].min() <= seen[0][0][0].max() <= 1
    assert len(train(unit)) == 1


def test_shifting_moves_images_by_whole_pixels_inside_zero_padding() -> None:
    images = torch.randint(1, 256, (20, 3, 16, 16), dtype=torch.uint8)
    shifted = augment(images, "shift", 3, Share())
    assert torch.equal(shifted, augment(images, "shift", 3, Share()))
    for image, moved in zip(images, shifted, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        windows = padded.unfold(1, 16, 1).unfold(2, 16, 1)
        assert any(torch.equal(windows[:, r, c], moved) for r in range(5) for c in range(5))


def test_layer_decay_and_bf16_train(store: LocalStore, vault: str) -> None:
    base = small_study().base
    unit = planned(store, vault, base=replace(base, layer_decay=0.7, precision="bf16"))[0]
    (line,) = train(unit)
    assert 0 < line.loss < 5


def test_a_diverging_training_is_told(store: LocalStore, vault: str) -> None:
    base = replace(small_study().base, learning_rate=1e9, clip_norm=0.0, epochs=4)
    with pytest.raises(StudyError, match="plain diverged in epoch"):
        train(planned(store, vault, base=base)[0])


def test_too_few_images_for_a_batch_are_told(store: LocalStore, vault: str) -> None:
    with pytest.raises(DataError, match="40 training images do not fill one batch of 64"):
        train(planned(store, vault, train_images=40)[0])


def test_a_batch_that_cannot_be_shared_is_told(store: LocalStore, vault: str) -> None:
    unit = planned(store, vault)[0]
    with pytest.raises(StudyError, match="cannot be shared by 3 workers"):
        batches_of(store, unit, unit.recipe, size=3)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"learning_rate": -1.0}, {"mixup": -0.1}, {"drop_path": 1.0}, {"lora_rank": 0}],
)
def test_recipes_out_of_range_are_told(wrong: dict) -> None:
    with pytest.raises(StudyError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_seeded_randomness_ends_with_its_block() -> None:
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    with seeded(7):
        inside = torch.rand(1)
    with seeded(7):
        assert torch.equal(inside, torch.rand(1))
    assert torch.equal(before, torch.rand(1))


def test_lora_options_leave_full_models_what_they_are(store: LocalStore, vault: str) -> None:
    study = small_study()
    other = replace(study, recipe=replace(study.recipe, lora_rank=4))
    keys = ensure_keys(study, store, vault)
    plans = [make_plan(s, plan_images(s), keys, store.uri, VaultAt(vault)) for s in (study, other)]
    assert plans[0].keyed[0].model.digest == plans[1].keyed[0].model.digest


def test_a_whole_study_runs_without_ray(store: LocalStore, vault: str) -> None:
    run, _ = run_locally(small_study(method="both"), store, vault)
    assert run.ending.failures == []
    assert store.has("matrix")


def test_a_training_through_torch_compile_stores_the_same_tensors(tmp_path: Path, vault: str) -> None:
    made = []
    for compiled in (False, True):
        store = LocalStore(tmp_path / str(compiled))
        plain = planned(store, vault)[0]
        # A compiler takes half a minute; what it is given to compile runs as it is.
        with torch.compiler.set_stance("force_eager"):
            finetune(plain, Place.here(compiled=compiled), lambda _: None)
        made.append(weights(store, plain))
    assert made[0] == made[1]
