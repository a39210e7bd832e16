"""The HTML page of `isthmus report`: its charts, its content, and its layout in a browser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from chromium import Browser, browser
from isthmus.bundle.atomic_write import write_atomically
from isthmus.bundle.bundle import Bundle
from isthmus.errors import InvalidInput
from isthmus.reports.bundle_report import BundleReport, report
from isthmus.reports.charts import Axis, axis_for, latency_strip, ruler_place, tag
from isthmus.reports.html import headline, render, write_html
from isthmus.reports.layers import POINTS, multiples_chart, shown_layers
from made_up_reports import CPP, absent, bad, good, layers, made_up, odd, passing

# --- charts ---------------------------------------------------------------------------------------


def test_the_ruler_is_monotonic_and_stays_in_its_box() -> None:
    shares = [0.0, 0.3, 1.0, 1.001, 2.0, 1e3, 1e9, math.inf]
    places = [ruler_place(share) for share in shares]
    assert places == sorted(places)
    assert places[3] - places[2] > 0.02, "a share just beyond the limit looks beyond it"
    assert (places[0], places[-1] <= 1) == (0.0, True)
    assert ruler_place(math.nan) > places[2]


def test_attribute_values_are_escaped() -> None:
    assert tag("line", x1='"><b>', stroke_width=2) == (
        '<line x1="&quot;&gt;&lt;b&gt;" stroke-width="2"></line>'
    )


def test_axes() -> None:
    assert Axis(10.0).ticks() == [0, 2, 4, 6, 8, 10]
    assert axis_for([1.0, 2.0], "x", least=1.0, log_from=0.5).start == 0
    wide = axis_for([1.0, 1900.0], "x", least=1.0, log_from=0.5)
    assert wide.ticks() == [1, 10, 100, 1000]
    assert 0 < wide.at(1.0) < wide.at(1900.0) < 1
    assert axis_for([], "ms").edge == axis_for([0.0, math.nan], "ms").edge == 1.0


def test_a_distribution_has_a_bounded_number_of_dots() -> None:
    samples = [1 + 0.001 * at for at in range(5000)]
    strip = latency_strip(samples, Axis(10.0, "ms"), CPP)
    assert 100 < strip.count("<circle") <= 160
    assert "median 3.5 ms" in strip


def test_many_layers_are_thinned_out_and_keep_the_culprit() -> None:
    many = layers(5000, 2345)
    shown = shown_layers(many)
    assert len(shown) <= POINTS
    assert many.culprit in shown
    assert "first to diverge" in multiples_chart(many, 6.0)


# --- the file -------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Collects all tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("make", [good, bad, odd, lambda: made_up(), lambda: made_up(absent())])
def test_the_page_has_no_scripts_and_no_external_resources(make: Any) -> None:
    text = render(make())
    elements = Elements(text).found
    tags = [tag for tag, _ in elements]
    assert not {"script", "img", "iframe", "object", "embed", "base", "form"} & set(tags)
    assert tags.count("h1") == 1
    assert tags.index("h1") < tags.index("h2")
    for element, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")], (element, attributes)
        for name in ("href", "src", "srcset", "action", "xlink:href"):
            assert attributes.get(name, "data:,") == "data:,", (element, attributes)
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_has_every_section() -> None:
    text = render(bad())
    for words in (
        "What was proven", "Goldens", "Distance to float64", "Error by layer", "Latency", "Sizes",
        "Hazards", "Signature", "Versions", "Repeat it",
        "killed by SIGSEGV", "no CUDA device here", "C++ faster: 0.51 x", "2.5 MB", "[batch, ?]",
        "a Python int", "any rank", "batch 1 to 64", "a value became a bool", "remedy: script it",
        "torch/nn/l.py:3", "first to diverge", "keeps state between calls",
    ):  # fmt: skip
        assert words in text, words
    assert "/opt/lib" not in text
    assert "Not timed." in render(made_up(passing()))
    assert "Not looked into" in render(made_up(passing()))


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.html"
    write_html(good(), target)
    before = target.read_text("utf-8")
    assert before.startswith("<!doctype html>")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InvalidInput, match="the disk is full"):
        write_html(bad(), target)
    assert target.read_text("utf-8") == before
    assert list(tmp_path.iterdir()) == [target], "no temporary file is left"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"missing.*cannot be written"):
        write_atomically(tmp_path / "missing" / "report.html", "")


def test_the_error_without_jinja2_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(InvalidInput, match=r"pip install 'isthmus\[report\]'"):
        render(good())


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(linear_bundle: Bundle, chromium: Browser) -> BundleReport:
    return report(linear_bundle, devices=["cpu"], rounds=2)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


UNFOLD = "for (const part of document.querySelectorAll('details')) part.open = true"
SIZES = {"phone": (360, 800), "desk": (1280, 900)}
CONTRAST = """(() => {
  const parse = text => {
    const found = text.match(/^rgba?\\(([\\d.]+), ([\\d.]+), ([\\d.]+)(?:, ([\\d.]+))?\\)$/);
    if (!found) throw new Error(`an unknown colour format: ${text}`);
    return [+found[1], +found[2], +found[3], found[4] === undefined ? 1 : +found[4]];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(value => value / 255)
      .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const over = (top, below) =>
    [0, 1, 2].map(at => top[at] * top[3] + below[at] * (1 - top[3])).concat(1);
  const behind = element => {
    if (!element) return parse(getComputedStyle(document.body).backgroundColor);
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, behind(element.parentElement));
  };
  const band = document.querySelector('.band');
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    if (!text || element.closest('title') || !element.checkVisibility()) continue;
    const drawn = element instanceof SVGElement;
    const style = getComputedStyle(element);
    const grounds = [behind(element)];
    if (drawn && band) grounds.push(parse(getComputedStyle(band).fill));
    const ink = parse(drawn ? style.fill : style.color);
    for (const ground of grounds) {
      const [high, low] = [light(over(ink, ground)), light(ground)].sort((a, b) => b - a);
      const ratio = (high + 0.05) / (low + 0.05);
      count += 1;
      if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
    }
  }
  return {count, found};
})()"""
OVERFLOWING = """[...document.querySelectorAll('body *')]
  .filter(element => !element.closest('.scroll')
    && element.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(element =>
    `${element.tagName} ${element.getAttribute('class')} ${element.textContent.slice(0, 40)}`)"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("which", ["real", "bad", "odd"])
def test_a_browser_shows_the_page(
    which: str, size: str, scheme: str, chromium: Browser, tmp_path: Path, real: BundleReport
) -> None:  # fmt: skip
    shown = {"bad": bad, "odd": odd}[which]() if which != "real" else real
    file = tmp_path / f"{which}.html"
    write_html(shown, file)
    width, height = SIZES[size]
    page = chromium.open(file, width=width, height=height, scheme=scheme)
    try:
        box = page.run("document.getElementById('verdict').getBoundingClientRect().toJSON()")
        assert box["top"] >= 0
        if which != "odd":  # its name alone fills more than a screen
            assert box["bottom"] <= height, "the verdict is on the first screen"
        text = page.run("document.getElementById('verdict').textContent")
        assert text == "".join(headline(shown))
        stamp = page.run("document.querySelector('.stamp').textContent")
        assert stamp == ("Passed" if shown else "Failed")
        page.run(UNFOLD)
        assert page.run("document.documentElement.scrollWidth") <= width, page.run(OVERFLOWING)
        assert page.run(OVERFLOWING) == []
        contrast = page.run(CONTRAST)
        assert contrast["count"] > 100
        assert contrast["found"] == []
        assert page.run("document.scripts.length + document.images.length") == 0
        dark = page.run("getComputedStyle(document.body).backgroundColor")
        assert (max(int(part) for part in dark[4:-1].split(",")) < 64) == (scheme == "dark")
        assert page.seen("Log.entryAdded") == page.seen("Runtime.consoleAPICalled") == []
        assert page.seen("Runtime.exceptionThrown") == []
        asked = [event["request"]["url"] for event in page.seen("Network.requestWillBeSent")]
        assert [url for url in asked if not url.startswith("data:")] == [file.resolve().as_uri()]
    finally:
        page.close()
