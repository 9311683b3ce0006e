"""The audit's page: what is in it, and that it works in a browser."""

import base64
import html
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from teacher_cache.audit import report
from teacher_cache.audit.disagreements import disagreements
from teacher_cache.audit.report import KINDS, embedded, write_report
from teacher_cache.audit.sample import render_views, seen_pixels
from teacher_cache.errors import StoreError
from teacher_cache.shards.classes import class_rule
from teacher_cache.shards.indexing import index_shards
from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_image, small_policy
from tests.support.drawn import commit_labels, drawn_store
from tests.support.filled_store import make_index, make_store
from tests.support.shard_files import write_shard
from tools.inspect_cache import main

EVIL = "</script><script>window['hacked']=1</script><img src=x onerror=alert(1)>&amp;"
PLOTLY = "window.Plotly = { react() {} };"


@pytest.fixture
def small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without the charts' 5 MB, which need not be installed."""
    monkeypatch.setattr(report, "plotly_script", lambda: report.packed(PLOTLY))


def evil_store(folder: Path) -> Store:
    """Samples whose keys and class names are markup; labels are the class, or the next one every other sample."""
    folder.mkdir(exist_ok=True)
    samples = [
        {"__key__": f"{EVIL}{number}", "png": bright_image(number), "cls": str(number % 3).encode()}
        for number in range(12)
    ]
    write_shard(folder / "train.tar", samples)
    (folder / "classes.json").write_text(json.dumps([EVIL, "b\u2028c", "d"]))
    shards = [str(folder / "train.tar")]
    index = index_shards(shards, class_rule(shards))
    store = Store.create(
        folder / "store", index, small_policy("mix=none"), views=4, seed=1, group=2, unit_samples=64, any_device=False
    )
    for unit in store.units():
        labels = np.full((len(store.layout.rows(unit)), store.group), -1)
        labels[:] = (index.classes[: len(labels)] + np.arange(len(labels)) % 2)[:, None] % 3
        commit_labels(store, unit, labels)
    return store


def read_data(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def pixels_of(uri: str) -> np.ndarray:
    assert uri.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_every_sample_of_the_lists_is_there_with_the_pixels_that_the_teacher_saw(
    tmp_path: Path, small_plotly: None
) -> None:
    store = drawn_store(tmp_path, mixed=True, own=0.3)
    done = write_report(store, tmp_path / "r.html", samples=6)
    data = read_data((tmp_path / "r.html").read_text())
    lists = disagreements(store, limit=6)
    for kind in KINDS:
        assert [each["kinds"][kind] for each in data["samples"] if kind in each["kinds"]] == lists[kind]["rows"]
        assert data["lists"][kind]["samples"] == lists[kind]["samples"]
    assert done["samples"] == len(data["samples"]) > 6
    assert done["pictures"] == len(data["samples"]) * (store.views + 1)
    assert done["left_out"] == 0
    sample = data["samples"][0]
    image, views = render_views(store, sample["detail"]["sample"], range(store.views))
    assert (pixels_of(sample["image"]) == image).all()
    for uri, view in zip(sample["views"], views, strict=True):
        assert (pixels_of(uri) == view.mixed).all()


def test_processes_make_the_same_page(tmp_path: Path, small_plotly: None) -> None:
    store = drawn_store(tmp_path, mixed=True, own=0.3)
    pages = []
    for workers in (0, 2):
        out = tmp_path / f"{workers}.html"
        write_report(store, out, samples=2, views_sampled=0, workers=workers, max_megabytes=0.08)
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]
    assert b"pictures are left out" in pages[0]


def test_page_tells_what_it_rests_on_and_loads_nothing(tmp_path: Path, small_plotly: None) -> None:
    store = drawn_store(tmp_path, mixed=True, own=0.3)
    write_report(store, tmp_path / "r.html", samples=3, views_sampled=100, seed=7)
    page = (tmp_path / "r.html").read_text()
    text = html.unescape(page)
    for said in (str(store.path), f"store seed {store.seed}", "sample seed 7", "Wilson's interval", "blocks are the"):
        assert said in text
    assert "views are mixed: each counts by the sample's own share of the mix" in text
    sampled = read_data(page)["summary"]["sampled"]
    assert f"{sampled['views']:,} labelled views" in text
    assert not re.findall(r"""(?:src|href|action|poster)\s*=\s*["']?(?:https?:)?//""", page)
    assert not re.findall(r"""url\(|@import|<link(?! rel="icon" href="data:,")|\bfetch\(|XMLHttpRequest""", page)
    assert "default-src 'none'" in text


def test_names_are_text_in_markup_and_in_json(tmp_path: Path, small_plotly: None) -> None:
    store = evil_store(tmp_path / EVIL.replace("/", "_"))
    write_report(store, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    data = read_data(page)
    assert data["class_names"] == [EVIL, "b\\u2028c", "d"]
    assert any(each["detail"]["key"] == store.index.key(each["detail"]["sample"]) for each in data["samples"])
    assert "<img" not in page
    assert "<script>window" not in page.replace(f"<script>{PLOTLY}", "")
    assert page.count("</script>") == 3


def test_embedded_json_holds_nothing_that_ends_a_script() -> None:
    value = {"</script>": "<!-- & \u2028\u2029 é"}
    text = str(embedded(value))
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == value


def test_size_limit_is_kept_and_what_is_left_out_is_said(tmp_path: Path, small_plotly: None) -> None:
    store = drawn_store(tmp_path, own=0.3)
    options: dict[str, Any] = {"samples": 8, "views_sampled": 0, "workers": 0}
    whole = write_report(store, tmp_path / "whole.html", **options)
    limit = whole["bytes"] / 1e6 - 0.02
    done = write_report(store, tmp_path / "less.html", max_megabytes=limit, **options)
    page = (tmp_path / "less.html").read_text()
    assert done["bytes"] == (tmp_path / "less.html").stat().st_size < limit * 1e6
    data = read_data(page)
    pictures = [uri for each in data["samples"] for uri in (each["image"], *each["views"])]
    assert done["samples"] == whole["samples"]
    assert done["left_out"] == pictures.count(None) > 0
    assert done["pictures"] == len(pictures) - pictures.count(None) > 0
    assert f"{done['left_out']:,} pictures are left out" in page
    with pytest.raises(StoreError, match=r"without a single picture: give a larger --max-megabytes"):
        write_report(store, tmp_path / "none.html", max_megabytes=0.01, **options)
    assert not (tmp_path / "none.html").exists()


def test_of_very_many_classes_those_least_agreed_with_are_shown(tmp_path: Path, small_plotly: None) -> None:
    """Forty thousand rows would be more than the page may have; the others are counted, and their labels known."""
    index = make_index((300,), num_classes=40_000, classes=np.arange(300) % 7)
    store = make_store(tmp_path / "store", index=index)
    for unit in store.units():
        start, rows = store.layout.samples(unit).start, len(store.layout.rows(unit))
        labels = np.full((rows, store.group), 39_999)
        truth = index.classes[start : start + rows]
        labels[: len(truth)] = np.where(truth % 2, truth, 39_999)[:, None]
        commit_labels(store, unit, labels)
    done = write_report(store, tmp_path / "r.html", samples=1, views_sampled=0, workers=0)
    page = (tmp_path / "r.html").read_text()
    data = read_data(page)
    assert done["bytes"] < 3e6
    shown = {row["number"]: row for row in data["classes"]}
    assert list(shown) == sorted(shown)
    assert len(shown) == report.CLASSES
    assert {number: shown[number]["own"] for number in range(7)} == {n: float(n % 2) for n in range(7)}
    assert [row["class"] for row in data["summary"]["agreement_by_class"]] == [row["class"] for row in data["classes"]]
    assert data["labels"][:8] == [*np.bincount(index.classes, minlength=7) * store.views, 0]
    assert f"{40_000 - report.CLASSES:,} classes are left out" in page


def test_without_shards_the_page_is_made_without_pictures_and_says_so(tmp_path: Path, small_plotly: None) -> None:
    store = drawn_store(tmp_path, own=0.3)
    shutil.move(tmp_path / "shards", tmp_path / "elsewhere")
    out = tmp_path / "r.html"
    words = [str(store.path), "report", "--limit", "5", "--views-sampled", "0", "--workers", "0", "--out"]
    done = CliRunner().invoke(main, [*words, str(out), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["pictures"] == 0
    assert "cannot be read" in found["pictures_missing"]
    assert "Made without any pictures" in out.read_text()
    moved = tmp_path / "moved.html"
    shards = str(tmp_path / "elsewhere" / "*.tar")
    done = CliRunner().invoke(main, [*words, str(moved), "--shards", shards])
    assert done.exit_code == 0, done.output
    assert "Made without" not in moved.read_text()


def test_a_store_without_labels_has_a_page_too(tmp_path: Path, small_plotly: None) -> None:
    store = drawn_store(tmp_path, own=0.3)
    shutil.rmtree(store.path / "records" / "c")
    done = write_report(Store.open(store.path), tmp_path / "r.html")
    assert done["samples"] == 0
    assert "No sample is in any list" in (tmp_path / "r.html").read_text()


def test_existing_file_and_absent_plotly_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = drawn_store(tmp_path)
    (tmp_path / "r.html").write_text("mine")
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    for out, said in (
        (tmp_path / "r.html", "exists already"),
        (tmp_path / "new.html", "pip install plotly"),
        ("s3://bucket/new.html", "s3://bucket/new.html is a URL: only local folders are known here"),
    ):
        done = CliRunner().invoke(main, [str(store.path), "report", "--out", str(out)])
        assert done.exit_code == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert (tmp_path / "r.html").read_text() == "mine"


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed (Debian: chromium, chromium-driver)")
    pytest.importorskip("plotly", reason="the extra `audit` is not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("plotly", reason="the extra `audit` is not installed")
    folder = tmp_path_factory.mktemp("page")
    store = drawn_store(folder, mixed=True, own=0.4)
    write_report(store, folder / "report.html", samples=8)
    return f"file://{folder / 'report.html'}"


@pytest.fixture(scope="module")
def sure_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a teacher that is right about nine labels of ten; no view is mixed."""
    pytest.importorskip("plotly", reason="the extra `audit` is not installed")
    folder = tmp_path_factory.mktemp("sure")
    store = drawn_store(folder, own=0.9, views=32)
    write_report(store, folder / "report.html", samples=2)
    text = (folder / "report.html").read_text()
    names = json.dumps([str(number) for number in range(10)], separators=(",", ":"))
    assert text.count(f'"class_names":{names}') == 1
    long = json.dumps([f"automobile {number} of a make" for number in range(10)])
    (folder / "report.html").write_text(text.replace(f'"class_names":{names}', f'"class_names":{long}'))
    return f"file://{folder / 'report.html'}"


def wait_until(true: Callable[[], Any]) -> Any:
    for _ in range(100):
        if found := true():
            return found
        time.sleep(0.1)
    pytest.fail("waited ten seconds in vain")


@pytest.mark.browser
def test_page_works_in_a_browser(browser: Any, page: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    def all_of(selector: str) -> list[Any]:
        return list(browser.find_elements(By.CSS_SELECTOR, selector))

    def one(selector: str) -> Any:
        return browser.find_element(By.CSS_SELECTOR, selector)

    browser.get(page)
    wait_until(lambda: len(all_of(".plot .main-svg")) >= 2 * 9)
    data = json.loads(one("#data").get_attribute("textContent"))

    # sorting, by keyboard
    button = all_of("#class-table th button")[3]
    first = [row.text.split()[0] for row in all_of("#class-table tbody tr")]
    own = {row["class"]: row["own"] for row in data["classes"]}
    assert [own[name] for name in first] == sorted(own.values())
    assert all_of("#class-table th")[3].get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert [own[row.text.split()[0]] for row in all_of("#class-table tbody tr")] == sorted(own.values(), reverse=True)
    assert all_of("#class-table th")[3].get_attribute("aria-sort") == "descending"

    # search
    one("#class-search").send_keys("7")
    assert [row.text.split()[0] for row in all_of("#class-table tbody tr")] == ["7"]
    assert all("7" in (pair.text.split()[0], pair.text.split()[2]) for pair in all_of("#pair-list button"))

    # a pair's button, then the filters
    one("#pair-list button").send_keys(Keys.SPACE)
    truth, _, label = one("#pair-list button span").text.split()
    assert Select(one("#by-class")).first_selected_option.text == truth
    assert Select(one("#by-label")).first_selected_option.text == label
    one("#filters button[type=reset]").click()
    wait_until(lambda: len(all_of(".card")) == len(data["samples"]))
    Select(one("#by-kind")).select_by_value("label_errors")
    wanted = [each for each in data["samples"] if "label_errors" in each["kinds"]]
    assert 0 < len(wanted) < len(data["samples"])
    wait_until(lambda: len(all_of(".card")) == len(wanted))
    numbers = [int(card.get_attribute("data-sample")) for card in all_of(".card")]
    assert numbers == [each["detail"]["sample"] for each in wanted]
    assert one("#found").text == f"{len(wanted)} of {len(data['samples'])} samples"

    # a sample, opened and closed by keyboard
    all_of(".card")[1].send_keys(Keys.ENTER)
    wait_until(lambda: one("#sample").get_attribute("open"))
    assert wanted[1]["detail"]["key"] in one("#sample-title").text
    assert len(all_of(".views > li")) == len(wanted[1]["detail"]["views"])
    wait_until(lambda: browser.execute_script("return [...document.images].every((each) => each.naturalWidth > 0)"))
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT if len(wanted) > 2 else Keys.ARROW_LEFT)
    assert wanted[2 if len(wanted) > 2 else 0]["detail"]["key"] in one("#sample-title").text
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait_until(lambda: not one("#sample").get_attribute("open"))
    wait_until(lambda: "card" in (browser.switch_to.active_element.get_attribute("class") or ""))

    # theme
    def background() -> str:
        return str(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))

    before = background()
    one("#theme").send_keys(Keys.SPACE)
    assert background() != before
    one("#theme").send_keys(Keys.SPACE)
    assert background() == before
    assert browser.get_log("browser") == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 768, 1280])
def test_page_fits_the_screen(browser: Any, page: str, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page)
    wide = "const e = document.scrollingElement; return e.scrollWidth - e.clientWidth"
    wait_until(lambda: browser.execute_script("return document.querySelectorAll('.plot .main-svg').length >= 18"))
    assert browser.execute_script(wide) <= 0
    browser.execute_script("document.querySelector('.card').click()")
    assert (
        browser.execute_script("const e = document.getElementById('sample'); return e.scrollWidth - e.clientWidth") <= 0
    )


def open_page(browser: Any, page: str, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page)
    wait_until(lambda: browser.execute_script("return document.querySelector('#heat .xtitle') !== null"))


@pytest.mark.browser
def test_paper_is_white_and_as_wide_as_what_is_on_it(browser: Any, page: str) -> None:
    open_page(browser, page, 718)  # A4 between its margins
    browser.execute_script("document.getElementById('theme').click()")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        seen = """const style = (what) => getComputedStyle(document.querySelector(what));
            return [style("body").backgroundColor, style("#heat .xtitle").fill, style("#theme").display];"""
        wait_until(lambda: browser.execute_script(seen) == ["rgb(255, 255, 255)", "rgb(26, 28, 31)", "none"])
        beyond = "const e = document.querySelector('#classes .scroll'); return e.scrollWidth - e.clientWidth"
        assert browser.execute_script(beyond) <= 0
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 1280])
def test_colours_of_the_heat_map_are_of_errors_alone(browser: Any, sure_page: str, width: int) -> None:
    open_page(browser, sure_page, width)
    fields = "({ z, zmax, showscale }) => ({ z, most: zmax, scale: showscale })"
    fields = "({ z, zmax, showscale }) => ({ z, most: zmax, scale: showscale })"
    errors, hits = browser.execute_script(f"return document.getElementById('heat').data.map({fields})")
    size = len(errors["z"])
    assert size == 10
    wrong = [errors["z"][row][column] for row in range(size) for column in range(size) if row != column]
    assert errors["most"] == max(wrong) < 10 < hits["z"][0][0]
    assert [errors["z"][number][number] for number in range(size)] == [None] * size
    assert hits["scale"] is False
    assert {hits["z"][row][column] for row in range(size) for column in range(size) if row != column} == {None}
    numbers = browser.execute_script("return document.querySelectorAll('#heat .heatmap-label').length")
    assert numbers == size * size - wrong.count(0)
    places = """const box = ({ left, right, top, bottom }) => ({ left, right, top, bottom });
        return [".xtick text", ".ytick text", ".xtitle", ".ytitle", ".svg-container"].map((what) =>
            [...document.querySelectorAll(`#heat ${what}`)].map((e) => box(e.getBoundingClientRect())))"""
    below, beside, (x_title,), (y_title,), (whole,) = browser.execute_script(places)
    assert max(each["bottom"] for each in below) <= x_title["top"] + 1 < x_title["bottom"] <= whole["bottom"]
    assert whole["left"] <= y_title["left"] < y_title["right"] <= min(each["left"] for each in beside) + 1


@pytest.mark.browser
def test_axes_fit_what_they_show_and_notes_say_where_they_begin(browser: Any, sure_page: str) -> None:
    open_page(browser, sure_page, 375)
    charts = browser.execute_script(
        """return Object.fromEntries([...document.querySelectorAll("#chart-list figure")].map((figure) => {
            const plot = figure.querySelector(".plot"), [trace] = plot.data;
            const swap = typeof trace.y[0] === "string", error = swap ? trace.error_x : trace.error_y;
            return [figure.querySelector("h3").textContent, {
              note: figure.querySelector("figcaption").textContent, bar: trace.type === "bar",
              values: swap ? trace.x : trace.y, above: error?.array, below: error?.arrayminus,
              axis: (swap ? plot.layout.xaxis : plot.layout.yaxis).range, places: plot.layout.xaxis.range }];
        }))"""
    )
    over = """return [...document.querySelectorAll(".plot")].flatMap((plot) => {
        const boxes = (what) => [...plot.querySelectorAll(what)].map((each) => each.getBoundingClientRect());
        return boxes(".xtick text").flatMap((x) => boxes(".ytick text").filter((y) =>
            x.left < y.right && y.left < x.right && x.top < y.bottom && y.top < x.bottom)); }).length"""
    assert browser.execute_script(over) == 0
    for title in ("group of views", "what the crop shows", "erased area", "operation"):
        chart = charts[f"Agreement by {title}"]
        ends = chart["axis"]
        above, below = (chart[name] or [0] * len(chart["values"]) for name in ("above", "below"))
        highest = max(value + more for value, more in zip(chart["values"], above, strict=True))
        lowest = min(value - less for value, less in zip(chart["values"], below, strict=True))
        assert 0 < ends[0] < lowest < highest <= ends[1] <= 100, title
        assert ends[1] - ends[0] <= 1.16 * (highest - lowest) + 4, title
        assert f"The axis begins at {ends[0]}\u00a0%, not at 0." in chart["note"]
    assert charts["Coverage by shard"]["bar"]
    assert charts["Coverage by shard"]["axis"] == [0, 100]
    assert charts["Entropy of labels"]["places"] == [0, pytest.approx(np.log2(10))]
    assert "highest possible, 3.32 bits" in charts["Entropy of labels"]["note"]


@pytest.mark.browser
def test_colours_and_foreign_parts_are_explained_where_they_show(browser: Any, page: str) -> None:
    open_page(browser, page, 375)

    def legend(of: str) -> set[str]:
        shown = f"return [...document.querySelectorAll('{of} .legend span')].map((each) => each.className)"
        return set(browser.execute_script(shown))

    def borders(of: str) -> set[str]:
        pictures = f"return [...document.querySelectorAll('{of} img')].map((each) => each.classList[0])"
        return set(browser.execute_script(pictures)) & {"own", "partner", "neither", "unlabelled"}

    assert borders("#gallery") <= legend("#legend")
    text = browser.execute_script("return document.getElementById('legend').textContent")
    for part in (
        "✗ another class",
        "Rectangles of noise are erased parts, the view's own where",
        "is the partner's part",
    ):
        assert part in text
    data = read_data(browser.page_source)
    browser.execute_script("document.querySelector('.card').click()")
    assert legend("#sample") == borders("#sample") != set()
    tiles = browser.execute_script(
        "return [...document.querySelectorAll('.views > li')].map((tile) => tile.textContent)"
    )
    views = data["samples"][0]["detail"]["views"]
    assert any(view["mix"] for view in views)
    for tile, view in zip(tiles, views, strict=True):
        if view["mix"] is not None:
            share = f"{100 * (1 - view['mix']['lambda']):.0f}\u00a0%"
            assert f"{view['mix']['kind']}, partner {share}: {view['mix']['partner']['class']}" in tile
        assert (": noise" in tile) == bool(view["params"]["erased"])


@pytest.mark.browser
def test_many_crops_are_a_map_and_one_is_shown_at_a_time(browser: Any, tmp_path: Path) -> None:
    write_report(drawn_store(tmp_path, own=0.4, views=8), tmp_path / "r.html", samples=1, views_sampled=0)
    open_page(browser, f"file://{tmp_path / 'r.html'}", 1280)
    detail = read_data(browser.page_source)["samples"][0]["detail"]
    browser.execute_script("document.querySelector('.card').click()")
    visible = """return [...document.querySelectorAll(".crop")].filter((each) => getComputedStyle(each).opacity > 0)
        .map((each) => Number(each.dataset.view))"""
    assert browser.execute_script("return document.querySelectorAll('.crop').length") == 8
    assert browser.execute_script(visible) == []
    browser.execute_script("document.querySelectorAll('.views > li')[5].dispatchEvent(new Event('mouseenter'))")
    assert browser.execute_script(visible) == [5]
    browser.execute_script("document.querySelectorAll('.views > li')[5].dispatchEvent(new Event('mouseleave'))")
    assert browser.execute_script(visible) == []
    height, width = detail["image_size"]
    red = browser.execute_script(
        """const { width, height } = document.querySelector("canvas.seen");
        const { data } = document.querySelector("canvas.seen").getContext("2d").getImageData(0, 0, width, height);
        return [...data].filter((_, place) => place % 4 === 0)"""
    )
    counts = seen_pixels(detail["views"], (height, width))
    level = (counts - counts.min()) / (counts.max() - counts.min())
    assert np.abs(np.reshape(red, (height, width)) - 255 * level).max() <= 0.5
    note = browser.execute_script("return document.querySelector('canvas.seen + .note').textContent")
    assert f"seen: {counts.min()} (dark) to {counts.max()} (bright) of 8 views" in note


@pytest.mark.browser
@pytest.mark.parametrize(("width", "cut"), [(375, True), (1280, False)])
def test_a_table_that_is_cut_says_so(browser: Any, page: str, width: int, cut: bool) -> None:
    open_page(browser, page, width)
    hint = browser.execute_script("return document.querySelector('#classes .hint').checkVisibility()")
    region = "const e = document.querySelector('#classes .scroll'); return e.scrollWidth > e.clientWidth + 1"
    assert hint == browser.execute_script(region) == cut


@pytest.mark.browser
def test_markup_in_names_shows_as_text(browser: Any, tmp_path: Path) -> None:
    store = evil_store(tmp_path / "s")
    write_report(store, tmp_path / "r.html")
    browser.get(f"file://{tmp_path / 'r.html'}")
    wait_until(lambda: browser.execute_script("return document.querySelectorAll('.card').length"))
    browser.execute_script("document.querySelector('.card').click()")
    assert EVIL in browser.execute_script("return document.querySelector('.key').textContent")
    assert browser.execute_script("return document.getElementById('class-table').textContent").count(EVIL) >= 1
    assert browser.execute_script("return window.hacked === undefined")
    assert browser.execute_script("return document.querySelectorAll('main script, main img[src=x]').length") == 0
    assert browser.get_log("browser") == []
