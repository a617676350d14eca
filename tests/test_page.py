"""The report's page in a browser: it loads alone, answers mouse and keyboard, and bars no reader."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from test_report import make_row, make_summary

from orchestrator.report.album import Album, MovedImages
from orchestrator.report.grid import lay_out
from orchestrator.report.page import write_report
from orchestrator.report.summary import StudySummary
from orchestrator.report.wording import percent

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
MOST_BYTES, MOST_SECONDS = 5_000_000, 3.0
CONTROLS = ["seed-0", "same-key-0", "rekeyed-0"]
HOSTILE = '<img src=x onerror="document.title=1">'


def make_fleet(count: int, radii=(4 / 255, 8 / 255), images=4) -> StudySummary:
    """A fleet with controls and an ensemble, counts drawn at random, and example images of all sources."""
    draw = np.random.default_rng(count)
    keys = [f"k-{number:012x}" for number in range(count)]
    names = ["plain", *keys, *CONTROLS]
    sources = [*names, "+".join(keys[:2])]
    rows = []
    for radius, source, target in product(radii, sources, names):
        mean = 0.97 if target in source.split("+") else 0.12 * radius * 32
        clean = 180 + len(target) % 7
        fooled = int(draw.binomial(clean, mean))
        rows.append(make_row(("full", "apgd", "linf", radius), source, target, n=200, clean=clean,
                             adversarial=clean - fooled, eligible=clean, fooled=fooled))  # fmt: skip
    clean = draw.random((images, 3, 16, 16), dtype=np.float32)
    moved = [
        MovedImages(
            source=source, attack="apgd", norm="linf", epsilon=radii[-1],
            others=np.clip(clean + draw.choice([-1, 1], clean.shape) * np.float32(radii[-1]), 0, 1),
            own=np.clip(clean + np.float32(radii[-1]), 0, 1),
            readings={("full", target): [(0, 7)] * images for target in names},
        )
        for source in sources
    ]  # fmt: skip
    album = Album(labels=list(range(images)), clean=clean, whole=True, moved=moved)
    return replace(make_summary(rows, notes=("2 images were left out.",)), album=album)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(make_fleet(4), tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(make_fleet(128, radii=(8 / 255,)), tmp_path_factory.mktemp("many"))


def written(summary: StudySummary, folder: Path) -> Path:
    (folder / "index.html").write_bytes(write_report(summary)["index.html"])
    return folder / "index.html"


class Visit:
    """A page that was opened, and what the browser complained of or asked the network for."""

    def __init__(self, context: BrowserContext, file: Path) -> None:
        self.page = context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    @property
    def seconds(self) -> float:
        timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        return float(self.page.evaluate(timing)) / 1000

    @property
    def cells(self):
        return self.page.locator(".cells").first

    @property
    def readout(self) -> str:
        return self.page.locator(".readout").first.inner_text()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    fresh = browser.new_context(viewport={"width": 1280, "height": 1000})
    yield fresh
    fresh.close()


@pytest.fixture(params=["four", "many"])
def file(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def grave(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def test_the_page_loads_alone_and_in_time(context: BrowserContext, file: Path) -> None:
    visit = Visit(context, file)
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith("data:")] == [file.as_uri()]
    assert file.stat().st_size < MOST_BYTES
    assert 0 < visit.seconds < MOST_SECONDS
    print(f"{file.stat().st_size / 1e6:.2f} MB, loaded in {visit.seconds:.2f} s")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_grave_bars_a_reader(context: BrowserContext, four: Path, scheme: str) -> None:
    visit = Visit(context, four)
    visit.page.emulate_media(color_scheme=scheme)
    assert grave(visit.page) == []
    visit.cells.click()
    assert grave(visit.page) == []


def test_nothing_grave_bars_a_reader_of_a_large_fleet(context: BrowserContext, many: Path) -> None:
    assert grave(Visit(context, many).page) == []


def test_arrow_keys_reach_every_cell_and_tell_what_python_counts(context, four: Path) -> None:
    visit = Visit(context, four)
    grid = lay_out(make_fleet(4))[1]
    visit.cells.focus()
    visit.page.keyboard.press("PageUp")
    for source in grid.rows:
        visit.page.keyboard.press("Home")
        for target in grid.names:
            cell, told = grid.cell(source, target), visit.readout
            assert told.startswith(f"{source} → {target}: ")
            assert f"{cell.fooled} of {cell.eligible} eligible images" in told
            numbers = [float(number) for number in re.findall(r"\d+\.\d", told)]
            # A tie is rounded up in the browser, to even in Python.
            assert numbers == pytest.approx([float(percent(end)) for end in cell.fooling], abs=0.11)
            visit.page.keyboard.press("ArrowRight")
        visit.page.keyboard.press("ArrowDown")
    assert visit.said == []


def test_the_mouse_shows_a_cell_and_a_click_opens_it(context: BrowserContext, four: Path) -> None:
    visit = Visit(context, four)
    page = visit.page
    grid = lay_out(make_fleet(4))[1]
    visit.cells.scroll_into_view_if_needed()
    box = visit.cells.bounding_box()
    row, column = 2, 5
    x = box["x"] + box["width"] * (column + 0.5) / len(grid.names)
    y = box["y"] + box["height"] * (row + 0.5) / len(grid.rows)
    page.mouse.move(x, y)
    pair = f"{grid.rows[row]} → {grid.names[column]}"
    assert visit.readout.startswith(pair)
    assert page.locator(".tip").first.inner_text().startswith(pair)
    page.mouse.click(x, y)
    dialog = page.locator("dialog")
    assert dialog.locator("h2").inner_text() == pair
    cell = grid.cell(grid.rows[row], grid.names[column])
    assert f"{cell.fooled} / {cell.eligible}" in dialog.inner_text()
    pictures = dialog.locator("img")
    assert pictures.count() == 12
    assert all(pictures.nth(number).evaluate("image => image.naturalWidth") == 16 for number in range(12))
    assert "perturbation × 15" in dialog.inner_text()
    assert "7 ✗" in dialog.inner_text()


def test_enter_opens_a_cell_and_escape_leads_back_to_it(context: BrowserContext, four: Path) -> None:
    visit = Visit(context, four)
    visit.cells.focus()
    visit.page.keyboard.press("ArrowRight")
    visit.page.keyboard.press("Enter")
    dialog = visit.page.locator("dialog")
    assert dialog.is_visible()
    assert dialog.locator("h2").inner_text() == "plain → k-000000000000"
    visit.page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert visit.cells.evaluate("cells => document.activeElement === cells")


def test_tab_goes_from_the_skip_link_to_the_cells(context: BrowserContext, four: Path) -> None:
    visit = Visit(context, four)
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.className") == "skip"
    assert visit.page.locator(".skip").bounding_box()["x"] >= 0
    for _ in range(30):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement.className").startswith("cells"):
            break
    outline = visit.cells.evaluate("cells => getComputedStyle(cells).outlineStyle")
    assert outline != "none", "the focus can be seen"
    assert visit.page.locator(".cursor").first.is_visible()


def test_the_clustered_order_tells_the_same_cells(context: BrowserContext, many: Path) -> None:
    visit = Visit(context, many)
    grid = lay_out(make_fleet(128, radii=(8 / 255,)))[0]
    button = visit.page.locator(".order").first
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert [picture.is_visible() for picture in visit.page.locator(".picture").all()] == [False, True]
    visit.cells.focus()
    visit.page.keyboard.press("PageUp")
    visit.page.keyboard.press("ArrowDown")
    seen = []
    for _ in range(6):
        visit.page.keyboard.press("ArrowRight")
        source, target = visit.readout.split(": ")[0].split(" → ")
        cell = grid.cell(source, target)
        assert f"{cell.fooled} of {cell.eligible}" in visit.readout
        seen.append(target)
    assert seen != grid.names[1:7]
    assert set(seen) <= set(grid.keys)


def test_dark_mode_changes_ground_and_ink_of_page_and_pictures(context, four: Path) -> None:
    visit = Visit(context, four)
    ground = "getComputedStyle(document.body).backgroundColor"
    look = f"[{ground}, getComputedStyle(document.querySelector('.picture text')).fill]"
    found = []
    for scheme in ("light", "dark"):
        visit.page.emulate_media(color_scheme=scheme)
        found.append(visit.page.evaluate(look))
    assert found[0][0] == "rgb(255, 255, 255)"
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_a_narrow_window_does_not_scroll_sideways(context: BrowserContext, file: Path) -> None:
    visit = Visit(context, file)
    visit.page.set_viewport_size({"width": 390, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_script_picture_and_tables_are_there(browser: Browser, four: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(four.as_uri())
    assert page.locator(".picture").first.is_visible()
    assert not page.locator(".cells").first.is_visible()
    assert not page.locator("button.order").first.is_visible()
    assert page.locator("table").count() >= 4
    context.close()


def test_hostile_names_stay_text_in_the_browser(context: BrowserContext, tmp_path: Path) -> None:
    names = ["plain", HOSTILE, "</script>"]
    panel = ("full", "apgd", "linf", 8 / 255)
    rows = [make_row(panel, source, target) for source, target in product(names, repeat=2)]
    visit = Visit(context, written(make_summary(rows, study=HOSTILE), tmp_path))
    visit.cells.focus()
    visit.page.keyboard.press("ArrowDown")
    assert HOSTILE in visit.readout
    visit.page.keyboard.press("Enter")
    assert visit.page.locator("dialog h2").inner_text().startswith(HOSTILE)
    assert visit.page.locator("img").count() == 0
    assert visit.page.title() != "1"
    assert visit.said == []
