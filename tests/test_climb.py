"""From an attack to outcomes: ladders, ensembles, parts, masks, indicators and what warns of them."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from attack_scene import Recorder, RowByRow, scene
from torch import nn

from conftest import run_locally, small_study
from orchestrator.attacks import ATTACKS, losses, settings, starts
from orchestrator.attacks import attack as attack_room
from orchestrator.attacks import threat as threat_room
from orchestrator.attacks.answer import Found
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.source import Access, Source
from orchestrator.attacks.threat import Ladder, check_threat
from orchestrator.errors import StudyError, WeightsError
from orchestrator.models.ensemble import EnsembleSpec, member_names
from orchestrator.models.ref import ModelRef
from orchestrator.store.local import LocalStore
from orchestrator.transfer import parts as parts_room
from orchestrator.transfer.climb import climb
from orchestrator.transfer.indicators import look
from orchestrator.transfer.judge import read
from orchestrator.transfer.parts import in_parts

LADDER = Ladder.parse("linf:3/255,4/255,6/255")
ATTACK = ApgdUntargeted(steps=10)


@pytest.mark.parametrize("early", [False, True])
def test_a_ladder_falls_rung_by_rung_and_never_rises_again(early):
    here = scene(n=24).behind(RowByRow)
    source = here.source(batch=7)
    moved = climb(replace(ATTACK, early=early), source, here.points(), LADDER)
    fell = torch.stack([here.fallen(worst) for worst in moved.worst])
    assert (fell[1:] | ~fell[:-1]).all()
    assert 0 < fell[0].sum() < fell[2].sum()
    for rung, threat in enumerate(LADDER.threats):
        check_threat(moved.worst[rung], here.images, threat)
        check_threat(moved.best[rung], here.images, threat)
    alone = here.struck(replace(ATTACK, early=early), LADDER.threats[0])
    assert torch.equal(moved.worst[0], alone.worst)
    if early:  # what has fallen is left alone: one look to see that it has, and no other
        spent = moved.forwards[2] - moved.forwards[1]
        assert (spent[fell[1]] == 1).all()
        assert (spent[~fell[1]] > 1).all()


def test_a_ladder_begins_each_rung_where_the_last_one_ended():
    here = scene(n=6).behind(Recorder)
    moved = climb(ATTACK, here.source(), here.points(), LADDER)
    starts = [shown for shown in here.model.shown if len(shown) == 6]
    assert any(torch.equal(shown, moved.best[0]) for shown in starts)


def test_an_ensemble_spec_takes_keys_in_slot_order_and_leaves_one_outside():
    plain = ModelRef(name="plain", method="plain", recipe={})
    keyed = [ModelRef(name=f"k-{n}", method="full", slot=n, recipe={"n": n}) for n in range(5)]
    names = [ensemble.name for ensemble in EnsembleSpec.parse("2").of(plain, keyed)]
    assert names == ["k-0+k-1", "k-2+k-3"]
    assert EnsembleSpec.parse("5").of(plain, keyed) == []
    (first, *_) = EnsembleSpec.parse("plain+1@gradients").of(plain, keyed)
    assert (first.name, first.method, first.label) == (
        "plain+k-0@gradients",
        "full",
        "plain+k-0@gradients.full",
    )
    assert member_names(first.name) == ["plain", "k-0"]
    assert (
        len({e.digest for spec in ("2", "2@gradients") for e in EnsembleSpec.parse(spec).of(plain, keyed)})
        == 4
    )


@pytest.mark.parametrize("text", ["1", "9", "plain", "plain+0", "two", "2@votes", ""])
def test_an_ensemble_that_cannot_be_is_refused(text):
    with pytest.raises(StudyError, match="nsemble"):
        EnsembleSpec.parse(text)


def test_gradients_of_an_ensemble_are_the_mean_of_those_of_its_members():
    here, other = scene(n=4), scene(5, n=4)
    models = [here.model, nn.Sequential(other.model, nn.ZeroPad1d((0, 5)))]
    rows, points = torch.arange(4), here.points()

    def loss(logits):
        return nn.functional.cross_entropy(logits, points.labels, reduction="none")

    apart = [Source([m], 4).look(points.images, rows, points.labels, loss).gradient for m in models]
    both = Source(models, 4, combine="gradients").look(points.images, rows, points.labels, loss)
    torch.testing.assert_close(both.gradient, torch.stack(apart).mean(dim=0))
    mean = Source(models, 4).look(points.images, rows, points.labels, loss)
    assert not torch.allclose(mean.gradient, both.gradient)
    torch.testing.assert_close(mean.logits, both.logits)


def test_bf16_shows_the_way_and_full_precision_decides():
    class Off(nn.Module):
        """Right in its own type, wrong under autocast."""

        def forward(self, images):
            short = (images.flatten(1) @ torch.ones(images[0].numel(), 1)).dtype == torch.bfloat16
            score = images.flatten(1).sum(dim=1, keepdim=True) * 0 + (1.0 if short else -1.0)
            return torch.cat([torch.zeros_like(score), score], dim=1)

    images, labels, rows = torch.rand(3, 3, 8, 8), torch.zeros(3, dtype=torch.long), torch.arange(3)
    source = Source([Off()], 3, precision="bf16")
    seen = source.look(images, rows, labels)
    assert (seen.logits[:, 1] > 0).all()
    assert not seen.misread.any()
    assert source.forwards.tolist() == [2, 2, 2]
    assert not source.decisions(images, rows, labels).any()


def test_an_interrupted_attack_goes_on_where_it_was(store: LocalStore, monkeypatch):
    monkeypatch.setattr(parts_room, "SAVE_SECONDS", 0.0)
    here = scene(n=12, dtype=torch.float32).behind(RowByRow)
    unit = _unit().attack_unit
    done = []

    def attacked(rows, until=100):
        if len(done) >= until:
            raise KeyboardInterrupt
        done.append(rows.tolist())
        source = here.source().part(rows)
        return climb(ATTACK, source, here.points().part(rows), LADDER)

    whole = in_parts(store, unit, here.images, 12, attacked)
    done.clear()
    with pytest.raises(KeyboardInterrupt):
        in_parts(store, unit, here.images, 4, lambda rows: attacked(rows, until=2))
    assert len(list(store.addresses("partial"))) == 2
    again = in_parts(store, unit, here.images, 5, attacked)
    assert done == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    for name in ("worst", "best", "forwards", "backwards"):
        assert torch.equal(getattr(again, name), getattr(whole, name))
    assert list(store.addresses("partial")) == []


def _unit():
    from test_agenda import PLAIN, key, unit

    return replace(unit(PLAIN, [PLAIN, key(0)], 0), ladder=LADDER)


def test_only_what_two_batch_sizes_misread_is_misread():
    class Moody(nn.Module):
        """Misreads in batches of four and more."""

        def forward(self, images):
            wrong = torch.full((len(images), 1), 1.0 if len(images) >= 4 else -1.0)
            return torch.cat([torch.zeros(len(images), 1), wrong], dim=1)

    images, labels = torch.rand(8, 3, 4, 4), torch.zeros(8, dtype=torch.long)
    reading = read([Moody()], images, labels, batch=4)
    assert (reading.classes.tolist(), reading.unconfirmed) == ([0] * 8, 8)
    reading = read([Moody()], images, 1 - labels, batch=3)
    assert (reading.classes.tolist(), reading.unconfirmed) == ([0] * 8, 0)
    with pytest.raises(WeightsError):
        read([nn.Flatten()], images * float("nan"), labels, batch=4)


def test_indicators_count_what_makes_an_attack_fail():
    here = scene(n=8, dtype=torch.float32)
    sound = look(here.source(), here.points())
    assert (sound.looked_at, sound.unsteady, sound.zero_gradient, sound.unbounded_standing) == (8, 0, 0, 0)

    class Killer(nn.Module):
        """Reads as before, and gives no gradient."""

        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, images):
            return self.net((images * 8).round() / 8 + 0 * images)

    class Restless(Killer):
        def forward(self, images):
            return self.net(images) + torch.rand(len(images), 1) * torch.eye(10)[0]

    killed = here.behind(Killer)
    flat = look(killed.source(), killed.points())
    assert (flat.zero_gradient, flat.unsteady) == (8, 0)
    assert flat.unbounded_standing > 0
    moody = here.behind(Restless)
    with torch.random.fork_rng():
        assert look(moody.source(), moody.points()).unsteady == 8
    with torch.no_grad():
        for parameter in here.model[3].parameters():
            parameter.mul_(1e4)
    assert look(here.source(), here.points()).saturated > 4


def test_a_study_with_ensembles_ladders_and_kept_images(store: LocalStore, vault) -> None:
    study = replace(
        small_study(),
        n_keys=3,
        ensembles=("2", "plain+1@gradients"),
        threats=("linf:4/255,8/255",),
        attacks=("apgd-ce:steps=3",),
    )
    run, _ = run_locally(study, store, vault, attacking={"keep_images": True})
    assert run.ending.failures == []
    (panel, wider) = _matrix(store).panels()
    assert (panel.epsilon, wider.epsilon) == (4 / 255, 8 / 255)
    cells = _matrix(store).cells(wider)
    sources = {source for source, _ in cells}
    assert {source.count("+") for source in sources} == {0, 1}
    assert len(sources) == 4 + 1 + 3
    assert all(cell.n == 40 for cell in cells.values())
    assert len(cells) == 8 * 4
    kept = sorted(store.addresses("adversarial"))
    assert len(kept) == 8 * 2
    tensors = safetensors.torch.load(store.read(kept[0], "images.safetensors"))
    assert tensors["worst"].shape == (2, 20, 3, 32, 32)
    assert set(tensors["moved_worst"].unique().tolist()) <= {0, 1}
    report = store.read("report", "report.md").decode()
    assert "2 keys" in report
    assert "1 key and plain, gradients" in report


def _matrix(store):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from orchestrator.transfer.matrix import TransferMatrix

    return TransferMatrix(pq.read_table(pa.BufferReader(store.read("matrix", "matrix.parquet"))))


def test_an_attack_is_added_by_its_class_and_its_row(store: LocalStore, vault, monkeypatch) -> None:
    guide = (Path(__file__).parent.parent / "docs" / "adding_an_attack.md").read_text()
    written = re.search(r"```python\n(.*?)```", guide, re.DOTALL)
    assert written is not None
    names = {**vars(attack_room), **vars(starts), **vars(losses), **vars(settings), **vars(threat_room)}
    names |= {
        "dataclass": dataclass,
        "ClassVar": ClassVar,
        "Access": Access,
        "Source": Source,
        "Found": Found,
    }
    exec(written[1], names)
    monkeypatch.setitem(ATTACKS, "one-step", names["OneStep"]())
    run, _ = run_locally(replace(small_study(), attacks=("one-step:length=0.5",)), store, vault)
    assert run.ending.failures == []
    (panel,) = _matrix(store).panels()
    assert panel.attack == "one-step-length0.5"
    assert len(_matrix(store).cells(panel)) == 9
