"""Runners: every unit ends once, done or failed, whoever dies; the same tests with and without Ray."""

import os
import signal
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.ledger import Ledger
from orchestrator.cluster.runner import Failed, Finished, Listed, LocalRunner, Runner

# How often Ray's agents hear of metrics; ten seconds where nobody says.
_AGENT_SECONDS = 1


@dataclass(frozen=True)
class Sum:
    """A unit that adds up, raises or kills its worker."""

    id: str
    numbers: tuple[int, ...] = ()
    raises: bool = False
    deaths: int = 0
    """How often the worker dies of it before it goes through."""


class Adder:
    def __init__(self, diary: str) -> None:
        self.diary = Path(diary)

    def run(self, unit: Sum) -> int:
        with self.diary.open("a") as file:
            file.write(f"{unit.id} {os.getpid()}\n")
        if unit.raises:
            raise ValueError(f"unit {unit.id} is wrong")
        if self.diary.read_text().split().count(unit.id) <= unit.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return sum(unit.numbers)


class Unstartable:
    def __init__(self) -> None:
        raise RuntimeError("no such device")

    def run(self, unit: Sum) -> int:
        return 0


@given(
    st.lists(st.text(min_size=1), unique=True, max_size=8),
    st.lists(st.tuples(st.integers(0, 10), st.sampled_from(["take", "settle", "lose"])), max_size=200),
    st.integers(1, 4),
)
def test_whatever_happens_every_unit_ends_once(units, events, most) -> None:
    ledger, running, settled, failed = Ledger(max_attempts=most), [], [], []
    for unit in units:
        ledger.add(unit)
    # After the events, enough of taking and settling to end whatever is still open.
    for place, kind in [*events, *[(0, "take"), (0, "settle")] * (4 * len(units) + 1)]:
        if kind == "take":
            running += filter(None, [ledger.take()])
        elif running:
            unit = running.pop(place % len(running))
            if kind == "settle":
                ledger.settle(unit)
            again = kind == "lose" and ledger.lose(unit)
            (settled if kind == "settle" else failed).extend([] if again else [unit])
    assert not ledger.open
    assert sorted(settled + failed) == sorted(units)
    assert all(ledger.attempts(unit) <= most for unit in units)
    assert all(ledger.attempts(unit) == most for unit in failed)
    assert ledger.pending == 0


def test_a_ledger_refuses_what_cannot_be() -> None:
    ledger = Ledger()
    ledger.add("a")
    with pytest.raises(ValueError, match="twice"):
        ledger.add("a")
    with pytest.raises(ValueError, match="not running"):
        ledger.settle("a")
    with pytest.raises(ValueError, match="not running"):
        ledger.lose("a")


@pytest.fixture(scope="module")
def cluster():
    from orchestrator.cluster.session import joined

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", str(1000 * _AGENT_SECONDS))
        with joined("local") as cluster:
            yield cluster


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def runner(request) -> Runner:
    if request.param == "local":
        return LocalRunner()
    from orchestrator.cluster.actor_pool import ActorPoolRunner

    return ActorPoolRunner(request.getfixturevalue("cluster").devices)


def outcome(runner: Runner, units: list[Sum], tmp_path: Path, make=None) -> dict:
    ends = list(runner.run(make or partial(Adder, str(tmp_path / "diary")), Listed(units)))
    by_id = {end.unit.id: end for end in ends}
    assert len(ends) == len(by_id)
    assert set(by_id) == {unit.id for unit in units}
    return by_id


def test_every_unit_is_finished_once(runner: Runner, tmp_path: Path) -> None:
    ends = outcome(runner, [Sum(str(n), (n, n)) for n in range(9)], tmp_path)
    assert {unit: end.account for unit, end in ends.items()} == {str(n): 2 * n for n in range(9)}
    assert all(isinstance(end, Finished) and end.seconds >= 0.05 for end in ends.values())


def test_no_units_is_no_work(runner: Runner, tmp_path: Path) -> None:
    assert outcome(runner, [], tmp_path) == {}


def test_an_error_fails_its_unit_once_and_the_others_go_on(runner: Runner, tmp_path: Path) -> None:
    ends = outcome(runner, [Sum("a", (1,)), Sum("b", raises=True), Sum("c", (3,))], tmp_path)
    assert isinstance(ends["b"], Failed)
    assert ends["b"].reason == "ValueError: unit b is wrong"
    assert "in run" in ends["b"].trace
    assert (ends["a"].account, ends["c"].account) == (1, 3)
    assert (tmp_path / "diary").read_text().split().count("b") == 1


@pytest.mark.ray
def test_units_of_dead_workers_are_done_by_others(cluster, tmp_path: Path) -> None:
    from orchestrator.cluster.actor_pool import ActorPoolRunner

    units = [Sum(str(n), (n,), deaths=(n == 2)) for n in range(6)] + [Sum("poison", deaths=99)]
    ends = outcome(ActorPoolRunner(cluster.devices, 2), units, tmp_path)
    assert all(ends[str(n)].account == n for n in range(6))
    assert isinstance(ends["poison"], Failed)
    assert "its worker died 3 times" in ends["poison"].reason
    lines = (tmp_path / "diary").read_text().split()
    assert (lines.count("2"), lines.count("poison"), lines.count("0")) == (2, 3, 1)


@pytest.mark.ray
def test_a_worker_that_cannot_be_built_fails_units_and_ends(cluster, tmp_path: Path) -> None:
    from orchestrator.cluster.actor_pool import ActorPoolRunner

    ends = outcome(ActorPoolRunner(cluster.devices, 2), [Sum("a"), Sum("b")], tmp_path, make=Unstartable)
    assert all("no such device" in end.reason for end in ends.values())


class SlowlyMade:
    """Makes workers, and takes its time to reach an actor, which is as long in the making."""

    def __init__(self, diary: str) -> None:
        self.diary = diary

    def __call__(self) -> Adder:
        return Adder(self.diary)

    def __reduce__(self):
        return _arrive_slowly, (self.diary,)


def _arrive_slowly(diary: str) -> SlowlyMade:
    time.sleep(1)
    return SlowlyMade(diary)


@pytest.mark.ray
def test_actors_given_up_while_they_start_hold_no_device(cluster, tmp_path: Path) -> None:
    import ray

    from orchestrator.cluster.actor_pool import _Pool

    devices, most = cluster.devices, cluster.devices.most()
    units = [Sum(str(number), (number,)) for number in range(4)]
    pool = _Pool(SlowlyMade(str(tmp_path / "diary")), devices, 0, Listed(units))
    pool.fit()
    assert len(pool.busy) == min(most, 4)
    devices.want(most)
    pool.fit()
    assert not pool.busy
    assert len(pool.given_up) == min(most, 4)
    training = ray.remote(num_cpus=most)(lambda: "has all cores").remote()
    deadline = time.monotonic() + 60
    while pool.given_up and time.monotonic() < deadline:
        assert list(pool.advance()) == []
        pool.fit()
    assert ray.get(training, timeout=60) == "has all cores"
    devices.want(-most)
    ends = []
    while not pool.ended():
        pool.fit()
        ends += pool.advance()
    pool.dismiss()
    assert sorted(end.account for end in ends) == [0, 1, 2, 3]


@pytest.mark.ray
def test_a_pool_that_ends_while_its_actors_start_leaves_no_device_taken(cluster, tmp_path: Path) -> None:
    import ray

    from orchestrator.cluster.actor_pool import _Pool

    devices, most = cluster.devices, cluster.devices.most()
    units = [Sum(str(number), (number,)) for number in range(4)]
    late = _Pool(SlowlyMade(str(tmp_path / "diary")), devices, 0, Listed(units))
    late.fit()
    hired = {id(actor) for actor, _ in late.busy.values()}
    devices.want(most)
    late.fit()
    devices.want(-most)
    late.fit()
    assert {id(actor) for actor, _ in late.busy.values()} == hired, "who is still being made is taken back"
    late.dismiss()
    del late
    training = ray.remote(num_cpus=most)(lambda: "has all cores").remote()
    assert ray.get(training, timeout=60) == "has all cores"


@pytest.mark.ray
def test_a_board_keeps_lines_until_they_are_collected(cluster) -> None:
    from orchestrator.cluster.board import Board

    board = Board()
    for number in range(3):
        board.post(number)
    collected: list[int] = []
    for _ in range(50):
        collected += board.collect()
        if len(collected) == 3:
            break
        time.sleep(0.1)
    assert sorted(collected) == [0, 1, 2]
    assert board.collect() == []
    board.close()


def exported(wanted: Callable[[dict[str, float]], object]) -> dict[str, float]:
    """What this node's metrics port shows of ours, as soon as it is what is wanted."""
    import ray

    node = next(node for node in ray.nodes() if node["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    direct, values = urllib.request.build_opener(urllib.request.ProxyHandler({})), {}
    for _ in range(120):
        with direct.open(url, timeout=10) as reply:
            text = reply.read().decode()
        lines = [line for line in text.splitlines() if line.startswith("ray_multikey_")]
        values = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
        if wanted(values):
            break
        time.sleep(0.5)
    return values


@pytest.mark.ray
def test_a_run_is_measured_on_the_metrics_port_of_its_node(cluster) -> None:
    from orchestrator.cluster.ray_meter import open_meter

    of_stage = {"study": "digits", "stage": "attacks"}
    of_panel = {"method": "full", "attack": "apgd-ce", "threat": "linf:8/255", "images": "own key"}
    with open_meter(0.5) as meter:
        meter.set("artifacts_done", 3.0, **of_stage)
        meter.set("artifacts_done", 4.0, **of_stage)
        meter.set("seconds_left", float("nan"), **of_stage)
        meter.set("fooling_rate", 0.25, study="digits", **of_panel)
        meter.use(2.5, **of_stage, device="cuda")
        meter.use(0.5, **of_stage, device="cuda")
        shown = {
            "ray_multikey_artifacts_done": 4,
            "ray_multikey_fooling_rate": 0.25,
            "ray_multikey_device_seconds_total": 3.0,
        }
        assert exported(lambda values: values == shown) == shown
        time.sleep(3 * _AGENT_SECONDS)  # longer than an agent remembers what is not repeated
        assert exported(lambda values: True) == shown
    assert exported(lambda values: len(values) == 1) == {"ray_multikey_device_seconds_total": 3.0}
