"""Targets are read together where they share weights, and no recorded row tells of it."""

import copy
import functools
from dataclasses import dataclass, replace

import pytest
import torch
from test_lora_batch import adapters
from test_models import SMALL, perturb
from test_transfer import write_images

from orchestrator.attacks import attack_settings
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.threat import Ladder
from orchestrator.keys.vault import VaultAt, open_vault
from orchestrator.models.keyed import KeyedModel
from orchestrator.models.lora import add_lora
from orchestrator.models.lora_batch import LoraBatch, load_lora_batch
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import KeyAccess, load_model, save_model
from orchestrator.transfer import readers
from orchestrator.transfer.judge import read, read_together
from orchestrator.transfer.work import WorkUnit
from orchestrator.transfer.worker import OUTCOMES_FILE, TransferWorker

# The last key does not fold: its model shares no base.
BLOCK_SIZES = (4, 8, 4, 8, 16)


@dataclass
class Fleet:
    """A plain model and LoRA models made from it, in a store; and what their shared base was shown."""

    load: functools.partial
    unit: WorkUnit
    rows_shown: list[int]

    def load_together(self, store, refs):
        batch = load_lora_batch(store, refs, SMALL)
        batch.backbone.blocks[1].register_forward_hook(lambda *seen: self.rows_shown.append(len(seen[2])))
        return batch


@pytest.fixture
def fleet(store, vault, tmp_path):
    ids = open_vault(vault).ensure("study", len(BLOCK_SIZES))
    keys = KeyAccess(keys=VaultAt(vault), study="study")
    torch.manual_seed(0)
    base, plain = SMALL.build(), ModelRef(name="plain", method="plain", recipe={})
    save_model(store, plain, KeyedModel(base), {})
    keyed = []
    for slot, block_size in enumerate(BLOCK_SIZES):
        ref = ModelRef(name=ids[slot], method="lora", slot=slot, recipe={"block_size": block_size})
        adapted = add_lora(copy.deepcopy(base), rank=2 + slot, alpha=8.0, dropout=0.0)
        model = KeyedModel(adapted, keys.transform(ref, block_size)).eval()
        perturb(model)
        save_model(store, ref, model, {})
        keyed.append(ref)
    shard, digest = write_images(store, tmp_path, size=32)
    attack = ApgdUntargeted(steps=3)
    unit = WorkUnit(
        attack="apgd-ce-steps3",
        settings=attack_settings(attack),
        ladder=Ladder.parse("linf:4/255,16/255"),
        source=keyed[1],
        shard=shard,
        shard_digest=digest,
        targets=(keyed[0], plain, *keyed[1:]),
        seed=0,
    )
    return Fleet(functools.partial(load_model, architecture=SMALL, keys=keys), unit, [])


def outcomes(store, fleet, unit, **options):
    worker = TransferWorker(store.uri, fleet.load, **options)
    worker.run(unit)
    content = store.read(unit.address, OUTCOMES_FILE)
    unconfirmed = store.record(unit.address).provenance["unconfirmed"]
    store.delete(unit.address)
    return content, unconfirmed


@pytest.mark.parametrize("source", [1, 2, -1], ids=["lora", "plain's neighbour", "not folded"])
def test_rows_are_the_same_read_together_or_one_by_one(store, fleet, source, monkeypatch):
    unit = replace(fleet.unit, source=fleet.unit.targets[source])
    apart = outcomes(store, fleet, unit)
    assert outcomes(store, fleet, unit, load_together=fleet.load_together) == apart
    assert fleet.rows_shown
    # Whatever is held, however many are read at once.
    monkeypatch.setattr(readers, "_TOGETHER", 3)
    few = {"load_together": fleet.load_together, "batch": 5, "keep_bytes": 1}
    assert outcomes(store, fleet, unit, **few) == apart


def test_the_shared_base_runs_once_for_all_targets(store, fleet):
    worker = TransferWorker(store.uri, fleet.load, load_together=fleet.load_together)
    worker.run(fleet.unit)
    shown = fleet.rows_shown
    # Twelve images: clean on all four, then under each of two threats on the three that were not attacked.
    together = [rows for rows in shown if rows > 12]
    assert together == [4 * 12, 3 * 12, 3 * 12]
    # What else it ran for: misreadings, looked at once more by their model alone.
    assert len(shown) - len(together) <= 4 + 2 * 3


def test_a_model_that_was_read_in_a_batch_of_its_own_can_be_attacked_next(store, fleet):
    lora, plain = fleet.unit.targets[:2]
    units = [replace(fleet.unit, source=source, targets=(plain, lora)) for source in (plain, lora)]
    worker = TransferWorker(store.uri, fleet.load, load_together=fleet.load_together)
    for unit in units:
        worker.run(unit)
    together = [store.read(unit.address, OUTCOMES_FILE) for unit in units]
    for unit in units:
        store.delete(unit.address)
    assert together == [outcomes(store, fleet, unit)[0] for unit in units]


def test_what_a_batch_misreads_is_looked_at_again_by_its_model_alone():
    torch.manual_seed(1)
    together = LoraBatch(SMALL.build().eval(), [_single(state) for state in adapters(SMALL.build())])
    images = torch.rand(8, 3, 32, 32)
    labels = together(images)[0].argmax(dim=1)
    apart = [
        read([torch.nn.Sequential(together.of([place]), torch.nn.Flatten(0, 1))], images, labels, batch=9)
        for place in range(3)
    ]
    found = read_together(together, images, labels, batch=9)
    assert [one.classes.tolist() for one in found] == [one.classes.tolist() for one in apart]
    assert (found[0].classes == labels).all()
    assert (found[1].classes != labels).any()
    assert read_together(together, images[:0], labels[:0], batch=9)[2].classes.tolist() == []

    def wrong_in_company(_, rows, logits):
        # Rows of all three models at a time: whatever the first two are right in, they misread now.
        return logits.roll(1, dims=1) if len(logits) == 9 else logits

    together.backbone.register_forward_hook(wrong_in_company)
    swayed = read_together(together, images, labels, batch=9)
    assert swayed[0].classes.tolist() == labels.tolist()
    assert swayed[0].unconfirmed == 6, "two passes of three images; the last has two"


def _single(state):
    return {name: tensor.float() for name, tensor in state.items()}
