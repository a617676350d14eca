"""The agenda: every unit once, never before its models are there, and early attacks change nothing."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.attacks import attack_settings
from orchestrator.attacks.gradient.apgd_untargeted import ApgdUntargeted
from orchestrator.attacks.threat import Ladder
from orchestrator.cluster.runner import Failed, Finished
from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.errors import DamagedArtifact
from orchestrator.models.ref import ModelRef
from orchestrator.pipeline.agenda import Agenda
from orchestrator.pipeline.progress import PlainReporter
from orchestrator.pipeline.stages import StudyRun
from orchestrator.store.artifacts import ArtifactStore
from orchestrator.store.local import LocalStore
from orchestrator.transfer.climb import Moved, no_moves
from orchestrator.transfer.moved import kept_moved, read_moved, save_moved
from orchestrator.transfer.work import AttackUnit, WorkUnit, targets_of

PLAIN = ModelRef(name="plain", method="plain", recipe={})


def key(number: int) -> ModelRef:
    return ModelRef(name=f"k-{number}", method="full", slot=number, recipe={"key": number})


def unit(source: ModelRef, models: list[ModelRef], shard: int) -> WorkUnit:
    return WorkUnit(
        attack="apgd-ce",
        settings=attack_settings(ApgdUntargeted()),
        ladder=Ladder.parse("linf:0.1"),
        source=source,
        shard=f"shards/eval/{shard:05d}",
        shard_digest="d",
        targets=targets_of(source.method, models),
        seed=0,
    )


def units(models: list[ModelRef], shards: int) -> list[WorkUnit]:
    return [unit(source, models, shard) for source in models for shard in range(shards)]


class Course:
    """An agenda led through events; checks whatever it hands out."""

    def __init__(self, keys: int, shards: int) -> None:
        self.models = [PLAIN, *map(key, range(keys))]
        self.wanted = units(self.models, shards)
        self.training = self.models[1:]
        self.agenda = Agenda(self.wanted, self.training)
        self.ready, self.lost = {PLAIN}, set()
        self.early: list[AttackUnit] = []
        self.attacked: set[str] = set()
        self.scored: list[WorkUnit] = []

    def take(self) -> None:
        waiting = self.agenda.waiting()
        taken = self.agenda.take()
        assert (taken is None) == (waiting == 0)
        if isinstance(taken, AttackUnit):
            assert taken.unit.source in self.ready
            assert not set(taken.unit.targets) <= self.ready | self.lost
            self.early.append(taken)
        elif taken is not None:
            assert {taken.source, *taken.targets} <= self.ready
            assert taken.kept == (taken.attack_unit.id in self.attacked)
            self.scored.append(taken)

    def train(self, well: bool) -> None:
        if self.training:
            model = self.training.pop()
            (self.ready if well else self.lost).add(model)
            self.agenda.model_ended(model, well)

    def settle(self) -> None:
        if self.early:
            done = self.early.pop()
            self.attacked.add(done.id)
            self.agenda.settle(Finished(done, None, 0.1))

    def finish(self) -> None:
        while self.training:
            self.train(True)
        while self.early:
            self.settle()
        while not self.agenda.ended():
            self.take()


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.sampled_from(["take", "settle", "train", "fail"]), max_size=80),
)
def test_whatever_the_order_every_unit_whose_models_exist_is_handed_out_once(keys, shards, events) -> None:
    course = Course(keys, shards)
    for kind in events:
        if kind == "take":
            course.take()
        elif kind == "settle":
            course.settle()
        else:
            course.train(kind == "train")
    course.finish()
    there = [
        replace(u, targets=tuple(t for t in u.targets if t in course.ready)).address
        for u in course.wanted
        if u.source in course.ready
    ]
    assert sorted(u.address for u in course.scored) == sorted(there)


def test_a_failed_early_attack_leaves_its_unit_out() -> None:
    models = [PLAIN, key(0)]
    agenda = Agenda([unit(PLAIN, models, 0)], models[1:])
    early = agenda.take()
    assert isinstance(early, AttackUnit)
    assert not agenda.ended()
    agenda.settle(Failed(early, "its worker died"))
    assert agenda.ended()


def test_images_kept_by_an_earlier_run_are_scored_and_not_made_again() -> None:
    models = [PLAIN, key(0)]
    wanted = unit(PLAIN, models, 0)
    agenda = Agenda([wanted], models[1:], {wanted.attack_unit.address})
    assert agenda.take() is None
    agenda.model_ended(models[1], True)
    assert agenda.take() == replace(wanted, kept=True)


class AttackingEarly:
    """A workplace that attacks what it can, up to a limit, after the first training."""

    description = "this process, attacks early"

    def __init__(self, workplace, limit: int = 1000) -> None:
        self.workplace, self.limit, self.meter = workplace, limit, workplace.meter

    def meter(self):
        return self.workplace.meter()

    def keys(self, vault: str):
        return self.workplace.keys(vault)

    def train(self, units, tell):
        return self.workplace.train(units, tell)

    def work(self, make_worker, feed, *, on_cores=False):
        # Begun anew each time: in one process, work ends where nothing can be done just now.
        return iter([lambda: self.workplace.work(make_worker, feed, on_cores=on_cores)])

    def together(self, training, work):
        (begin,) = work
        yield next(training)
        yield from itertools.islice(begin(), self.limit)
        self.early_is_over()
        yield from training
        yield from begin()

    def early_is_over(self) -> None:
        """For tests to look or die."""


def moved_addresses(store: ArtifactStore) -> list[str]:
    return list(store.addresses("moved"))


def test_early_attacks_change_no_outcome_and_leave_no_images(
    finished_study, store, vault, tmp_path
) -> None:
    other = LocalStore(tmp_path / "other" / "study")
    seen: list[list[str]] = []

    class Watched(AttackingEarly):
        def early_is_over(self) -> None:
            seen.append(moved_addresses(other))

    silent = PlainReporter(lambda line: None)
    run = StudyRun(finished_study, other, vault, Watched(LocalWorkplace()), silent)
    assert run.run().failures == []
    assert len(seen[0]) == 4  # two shards of plain and of the first key
    assert moved_addresses(other) == []
    for address in store.addresses("outcomes"):
        assert other.read(address, "outcomes.parquet") == store.read(address, "outcomes.parquet")
    assert other.read("matrix", "matrix.parquet") == store.read("matrix", "matrix.parquet")


def test_kept_images_nobody_waits_for_are_removed(finished_study, store: LocalStore, vault) -> None:
    class Dying(AttackingEarly):
        def early_is_over(self) -> None:
            raise KeyboardInterrupt

    for address in [*store.addresses("models"), *store.addresses("outcomes")]:
        if address != "models/plain":
            store.delete(address)
    silent = PlainReporter(lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        StudyRun(finished_study, store, vault, Dying(LocalWorkplace(), 2), silent).run()
    kept = moved_addresses(store)
    assert len(kept) == 2
    assert kept_moved(store, []) == set()
    assert moved_addresses(store) == []


def test_kept_images_that_do_not_fit_their_shard_are_damage(store: LocalStore) -> None:
    early = unit(PLAIN, [PLAIN, key(0)], 0).attack_unit
    images, counts = torch.zeros(1, 2, 3, 4, 4), torch.ones(1, 2, dtype=torch.long)
    facts = (counts, 2 * counts, 3 * counts, *[no_moves(1, images[0])] * 2)
    save_moved(store, early, Moved(images, images + 1, *facts), {"seconds": 1.0})
    moved, record = read_moved(store, early, torch.ones(2, 3, 4, 4))
    assert (moved.worst.sum(), moved.best.mean(), moved.backwards.sum()) == (0, 1, 4)
    assert moved.fooled(torch.tensor([3, 2])).tolist() == [[False, True]]
    assert record.told("seconds", float, early.address) == 1.0
    with pytest.raises(DamagedArtifact, match="moved/"):
        read_moved(store, early, torch.ones(3, 3, 4, 4))
