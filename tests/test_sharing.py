"""Who may use which device when: training first, lanes as wide as the cluster is now, streams merged."""

import threading
import time
from collections import Counter
from typing import Any

import pytest

from orchestrator.cluster.devices import Devices
from orchestrator.cluster.lanes import Lanes, Unplaced
from orchestrator.cluster.merge import merged
from orchestrator.cluster.runner import Failed, Finished
from orchestrator.keys.vault import VaultAt
from orchestrator.models.ref import ModelRef
from orchestrator.models.stored import KeyAccess
from orchestrator.presets import digits
from orchestrator.training.finetune import TrainingUnit


class Growing:
    """A cluster whose size a test sets."""

    def __init__(self, size: int) -> None:
        self.size = size

    def devices(self, asked: int = 0) -> Devices:
        devices = Devices("GPU", lambda: self.size, asked)
        devices.now = lambda: self.size  # not a second old
        return devices


@pytest.mark.parametrize(
    ("size", "asked", "wanted", "left"),
    [
        (4, 0, 0, 4),
        (4, 0, 3, 1),
        (4, 0, 4, 0),
        (4, 0, 9, 0),  # training waits for more than there is: attacks give way
        (0, 8, 0, 8),  # nothing there yet, and all may be asked for
        (0, 8, 4, 0),  # training waits for the first ones
        (6, 8, 4, 4),  # training has its own; two more may be asked for
        (0, 0, 0, 1),  # one is always asked for, or nothing would ever start
    ],
)
def test_attacks_get_what_training_leaves(size: int, asked: int, wanted: int, left: int) -> None:
    devices = Growing(size).devices(asked)
    devices.want(wanted)
    assert devices.left() == left
    devices.want(-wanted)
    assert devices.left() == devices.most()


@pytest.mark.parametrize("sharing", [1, 2, 3, 7])
def test_models_that_share_a_device_fill_it_and_no_more(sharing: int) -> None:
    share = Growing(1).devices().bundle(sharing)["GPU"]
    assert sharing * share == pytest.approx(1.0)


def test_the_cluster_is_asked_at_most_once_a_second() -> None:
    asked = Counter()

    def count() -> int:
        asked["times"] += 1
        return 2

    devices = Devices("CPU", count)
    assert [devices.now() for _ in range(100)] == [2] * 100
    assert asked["times"] == 1


def test_streams_are_merged_as_their_items_come() -> None:
    first, second = threading.Event(), threading.Event()

    def slow():
        assert first.wait(5)
        yield "slow"
        second.set()

    def quick():
        yield "quick"
        first.set()
        assert second.wait(5)
        yield "quick again"

    assert list(merged([slow, quick])) == ["quick", "slow", "quick again"]
    assert list(merged([])) == []


def test_an_error_of_one_stream_is_raised_at_once() -> None:
    def endless():
        while True:
            yield "item"
            time.sleep(0.01)

    def broken():
        raise ValueError("this stream is broken")
        yield

    with pytest.raises(ValueError, match="this stream is broken"):
        for _ in merged([endless, broken]):
            pass


def unit(name: str) -> TrainingUnit:
    """A unit that is never trained."""
    study = digits()
    return TrainingUnit(
        model=ModelRef(name=name, method="full", recipe={}),
        architecture=study.architecture,
        recipe=study.recipe,
        block_size=4,
        shards=(),
        store="",
        keys=KeyAccess(keys=VaultAt(""), study=""),
        seed=0,
    )


class Trainings:
    """Packs that take a moment, and how many ran at once."""

    def __init__(self, unplaced: dict[str, int] | None = None) -> None:
        self.unplaced = Counter(unplaced or {})
        self.running, self.most = 0, 0
        self.begun: set[str] = set()
        self.lock = threading.Lock()

    def __call__(self, name: str, pack: Any) -> list[Any]:
        with self.lock:
            if self.unplaced[pack[0].model.name]:
                self.unplaced[pack[0].model.name] -= 1
                raise Unplaced("no place")
            self.running += 1
            self.most = max(self.most, self.running)
            self.begun.add(pack[0].id)
        time.sleep(0.1)
        with self.lock:
            self.running -= 1
        if pack[0].model.name == "bad":
            raise RuntimeError("this pack is bad")
        return [Finished(unit, None, 0.1) for unit in pack]


def packs(*names: str) -> list[tuple[TrainingUnit]]:
    return [(unit(name),) for name in names]


def test_lanes_are_as_many_as_fit_and_widen_with_the_cluster() -> None:
    cluster, train = Growing(4), Trainings()
    devices = cluster.devices()
    lanes = Lanes(devices, 2, train)
    ends = []
    for end in lanes.run(packs(*"abcdefgh"), train.begun, lambda: None):
        if not ends:
            assert train.most == 2
            cluster.size = 8
        ends.append(end)
    assert sorted(end.unit.model.name for end in ends) == list("abcdefgh")
    assert train.most == 4
    assert devices.left() == 8


def test_a_pack_without_a_place_waits_its_turn_and_fails_after_three() -> None:
    train = Trainings({"a": 1, "b": 3})
    devices = Growing(2).devices()
    ends = {
        e.unit.model.name: e for e in Lanes(devices, 1, train).run(packs(*"abc"), train.begun, lambda: None)
    }
    assert isinstance(ends["a"], Finished)
    assert ends["b"] == Failed(unit("b"), "no place")
    assert isinstance(ends["c"], Finished)
    assert devices.left() == 2


def test_an_error_fails_its_pack_and_the_others_go_on() -> None:
    train = Trainings()
    lanes = Lanes(Growing(1).devices(), 1, train)
    ends = {e.unit.model.name: e for e in lanes.run(packs("bad", "good"), train.begun, lambda: None)}
    assert ends["bad"].reason == "RuntimeError: this pack is bad"
    assert isinstance(ends["good"], Finished)


def test_small_takers_are_let_in_once_no_pack_waits_for_a_place() -> None:
    train = Trainings()
    seen: list[tuple[str, ...]] = []
    lanes = Lanes(Growing(1).devices(), 1, train)
    ends = []
    for end in lanes.run(packs("a", "b"), train.begun, lambda: seen.append(tuple(sorted(train.begun)))):
        ends.append(end.unit.model.name)
    assert ends == ["a", "b"]
    assert seen
    assert all(begun == ("a.full", "b.full") for begun in seen)
