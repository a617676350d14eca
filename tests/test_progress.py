"""Progress: what people, logs and metrics are told of a run adds up to what its outcomes say."""

import io
import math

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from conftest import run_locally, small_study
from orchestrator.cluster.meter import Meter, SilentMeter
from orchestrator.cluster.workplace import LocalWorkplace
from orchestrator.models.ref import PLAIN, ModelRef
from orchestrator.pipeline.asked import recall_plan
from orchestrator.pipeline.bars import RichReporter
from orchestrator.pipeline.heatmap import CIVIDIS, draw, shows_colour
from orchestrator.pipeline.metered import Metered
from orchestrator.pipeline.progress import PlainReporter, Reporter
from orchestrator.pipeline.so_far import MOST_ROWS, SoFar
from orchestrator.pipeline.stages import StudyRun
from orchestrator.pipeline.standing import Standing, Used, rate_words, used_words
from orchestrator.store.local import LocalStore
from orchestrator.transfer.account import UnitAccount, count_targets, counted_targets
from orchestrator.transfer.matrix import Panel, TransferMatrix
from orchestrator.transfer.work import plan_units

PANEL = Panel("full", "apgd-ce", "linf", 8 / 255)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """A meter that keeps what it is given."""

    def __init__(self) -> None:
        self.gauges: dict = {}
        self.seconds: dict = {}

    def set(self, name, value, **labels) -> None:
        assert isinstance(value, float)
        self.gauges[name, *labels.values()] = value

    def use(self, seconds, **labels) -> None:
        place = tuple(labels.values())
        self.seconds[place] = self.seconds.get(place, 0.0) + seconds


def fleet(keys: int, method: str = "full", controls: tuple[str, ...] = ()) -> list[ModelRef]:
    names = [*(f"k-{slot:012x}" for slot in range(keys)), *controls]
    plain = ModelRef(name=PLAIN, method="plain", recipe={})
    return [plain, *(ModelRef(name=name, method=method, recipe={}) for name in names)]


def filled(keys: int, controls: tuple[str, ...] = ()) -> SoFar:
    """Ten images a cell: all fooled at home, three elsewhere, one by plain's images."""
    models = fleet(keys, controls=controls)
    so_far = SoFar(models)
    for source in models:
        for target in models:
            fooled = 10 if source is target else 1 if source.name == PLAIN else 3
            so_far._add(PANEL, source.name, target.name, fooled, 10)
    return so_far


def test_a_standing_knows_rate_time_left_and_device_time() -> None:
    clock = Clock()
    standing = Standing("attacks", 100, 40, clock)
    assert (standing.per_minute, math.isnan(standing.seconds_left)) == (0.0, True)
    for _ in range(50):
        clock.now += 2.0
        standing.advance(Used(3.0, "cuda"))
    standing.use(Used(1.0))
    standing.fail()
    assert standing.per_minute == pytest.approx(30.0)
    assert standing.seconds_left == pytest.approx(9 * 2.0)
    assert standing.used == {"cuda": 150.0, "cpu": 1.0}
    clock.now += 64.0  # as long again as the last 32 took: a stage that stalls says so
    assert standing.per_minute == pytest.approx(15.0)


def test_words_name_their_units() -> None:
    assert used_words({"cuda": 1234.4, "cpu": 2.04}) == "1,234 GPU-s, 2.0 core-s"
    assert used_words({"cpu": 0.0}) == used_words({}) == ""
    assert [rate_words(rate) for rate in (120.0, 2.5, 0.1)] == ["120/min", "2.5/min", "6.0/h"]


def test_lines_come_now_and_then_and_end_with_the_count() -> None:
    clock, said = Clock(), []
    reporter = PlainReporter(said.append, clock)
    so_far = filled(2)
    reporter.matrix(so_far)
    with reporter.stage("attacks", 42, 2) as stage:
        for number in range(40):
            clock.now += 1.0
            stage.advance(f"unit {number}", Used(2.0))
        stage.fail()
    lines = [line.split(" ", 2)[2] for line in said]
    assert lines[0] == "attacks: 2/42 there, 40 to do"
    assert lines[1] == "attacks: 3/42, 60/min, 39.0 s left, 2.0 core-s: unit 0"
    assert sum(": unit " in line for line in lines) == 8
    told = [line for line in lines if line.startswith("fooled in this run so far")]
    words = "own key 100.0 %, other keys 30.0 %, from plain 10.0 % (9 of 9 cells)"
    assert told == [f"fooled in this run so far, full · apgd-ce · ℓ∞ ε = 8/255: {words}"]
    assert lines[-1] == "attacks: 42/42, 1 failed, 80 core-s, after 40.0 s"


def test_a_run_tells_its_matrix_as_it_is_committed(store: LocalStore, vault: str) -> None:
    kept = Kept()
    reporter = Metered(PlainReporter(lambda line: None), kept, "small")
    study = small_study(threats=("linf:4/255,8/255",), controls=1)
    run = StudyRun(study, store, vault, LocalWorkplace(), reporter)
    assert run.run().failures == []
    matrix = TransferMatrix(pq.read_table(store.root / "matrix/matrix.parquet"))
    expected = SoFar(recall_plan(store).models)
    expected.add_matrix(matrix)
    widest = {panel.panel: panel for panel in expected.panels if panel.panel.epsilon == 8 / 255}
    told = {panel.panel: panel for panel in reporter.so_far.panels}
    assert told.keys() == widest.keys()
    for panel, counts in told.items():
        np.testing.assert_array_equal(counts.fooled, widest[panel].fooled)
        np.testing.assert_array_equal(counts.eligible, widest[panel].eligible)
        assert counts.by_images == widest[panel].by_images
        assert counts.cells[0] == counts.cells[1]
    units = len(plan_units(recall_plan(store).units, store).scored)
    assert kept.gauges["artifacts_done", "small", "attacks"] == units
    assert kept.gauges["seconds_left", "small", "attacks"] == 0
    (panel,) = told.values()
    place = ("small", "full", "apgd-ce-steps3", "linf:8/255", "own key")
    assert kept.gauges["fooling_rate", *place] == panel.rate("own key")
    recorded = sum(store.record(a).provenance["seconds"] for a in store.addresses("outcomes"))
    assert kept.seconds["small", "attacks", "cpu"] >= recorded > 0
    assert kept.seconds["small", "keyed models", "cpu"] > 0
    assert not any("k-" in str(label) for place in kept.gauges for label in place)


def test_failures_are_counted_where_they_happen(finished_study, store: LocalStore, vault: str) -> None:
    for address in [*store.addresses("outcomes"), "matrix", "report"]:
        store.delete(address)
    shard = store.root / "shards/eval/00001/images.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    kept = Kept()
    reporter = Metered(PlainReporter(lambda line: None), kept, "small")
    StudyRun(finished_study, store, vault, LocalWorkplace(), reporter).run()
    assert kept.gauges["artifacts_failed", "small", "attacks"] == 3
    assert kept.gauges["artifacts_done", "small", "attacks"] == 3


def test_an_account_of_very_many_targets_stays_small(monkeypatch, store, vault) -> None:
    study = small_study(n_keys=3)
    run_locally(study, store, vault)
    unit = recall_plan(store).units[-1]
    outcomes = pq.read_table(store.root / unit.address / "outcomes.parquet")
    everyone = counted_targets(unit), count_targets(unit, outcomes)
    assert everyone[0] == list(unit.targets)
    monkeypatch.setattr("orchestrator.transfer.account._MOST_COUNTED", 2)
    some, (fooled, eligible) = counted_targets(unit), count_targets(unit, outcomes)
    assert [target.name for target in some] == [PLAIN, unit.targets[2].name, unit.source.name]
    places = [unit.targets.index(target) for target in some]
    assert fooled == tuple(everyone[1][0][place] for place in places)
    assert eligible == tuple(everyone[1][1][place] for place in places)
    so_far = SoFar(recall_plan(store).models)
    so_far.add_unit(unit, UnitAccount(20, 1, 4, fooled=fooled, eligible=eligible))
    assert so_far.panels[0].fooled.sum() == sum(fooled)


def test_many_models_share_places_and_lose_no_image() -> None:
    so_far = filled(100, controls=("seed-0",))
    (panel,) = so_far.panels
    assert panel.fooled.shape == (MOST_ROWS, MOST_ROWS)
    assert panel.eligible.sum() == 101 * 101 * 10  # controls are left out
    assert panel.by_images == {"own key": [1000, 1000], "other keys": [29700, 99000], "plain": [100, 1000]}
    assert panel.axis.labels[1] in ("3 keys", "4 keys")


def words_of(panel, width: int, height: int, *, colour: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(draw(panel, width, height, colour=colour))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("colour", [True, False])
def test_small_heatmaps_have_names_and_numbers(colour: bool) -> None:
    (panel,) = filled(4, ("seed-0",)).panels
    lines = words_of(panel, 80, 24, colour=colour)
    assert lines[3].split() == ["0", PLAIN, "100", *["10"] * 5]
    assert lines[5].split() == ["2", "k-000000000001", "30", "30", "100", "30", "30", "30"]
    assert max(map(len, lines)) <= 80


def test_large_heatmaps_are_half_blocks_or_digits() -> None:
    (panel,) = filled(31).panels
    blocks = words_of(panel, 80, 40, colour=True)
    assert sum("▀" * 32 in line for line in blocks) == 16
    digits = words_of(panel, 80, 10**6, colour=False)
    assert digits[2].strip() == "0 9" + "1" * 31
    assert digits[3].strip() == "1 39" + "3" * 30
    assert len(words_of(panel, 80, 12, colour=True)) == 2  # no room: the words alone
    for lines in (blocks, digits):
        assert max(map(len, lines)) <= 80


def test_no_color_is_obeyed_on_a_terminal(monkeypatch) -> None:
    terminal = {"file": io.StringIO(), "force_terminal": True, "color_system": "truecolor"}
    assert shows_colour(Console(**terminal))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not shows_colour(Console(**terminal))


def test_cells_that_were_not_tried_are_no_zeros() -> None:
    so_far = SoFar(fleet(31))
    so_far._add(PANEL, PLAIN, PLAIN, 0, 10)
    (panel,) = so_far.panels
    assert words_of(panel, 80, 10**6, colour=False)[2].strip() == "0 0" + "·" * 31
    assert math.isnan(panel.rate("own key"))


def test_colours_are_cividis() -> None:
    scale = matplotlib.colormaps["cividis"]
    exact = [tuple(round(255 * part) for part in scale(step / 10)[:3]) for step in range(11)]
    assert list(CIVIDIS) == exact


@pytest.mark.parametrize("width", [80, 120])
def test_bars_and_matrix_fit_a_terminal(width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width, height=40, force_terminal=True, color_system="truecolor")
    clock = Clock()
    reporter = RichReporter(console, clock)
    reporter.matrix(filled(8))
    with reporter.stage("keyed models", 8, 8), reporter.stage("attacks", 12345, 17) as stage:
        clock.now += 3.0
        stage.advance("apgd-ce linf:8/255 on k-000000000000 and very many others" * 3, Used(4321.0, "cuda"))
        stage.fail()
    shown = console.file.getvalue()
    for words in (
        "already there",
        "18/12345",
        "20/min",
        "10 h 16 min left",
        "4,321 GPU-s",
        "1 failed",
        "k-000000000007",
        "own key 100.0 %",
    ):
        assert words in shown, words


def test_reporters_and_meters_keep_their_protocols() -> None:
    plain = PlainReporter(print)
    for reporter in (plain, RichReporter(Console()), Metered(plain, SilentMeter(), "x")):
        assert isinstance(reporter, Reporter)
    with LocalWorkplace().meter() as meter:
        assert isinstance(meter, Meter)
