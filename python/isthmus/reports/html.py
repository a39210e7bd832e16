"""Renders a bundle's report as one HTML file; needs jinja2, the extra `isthmus[report]`.

`report.html.j2` is the page and `report.css` its style. This module and the `page_` modules prepare
what they show.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from isthmus.bundle.atomic_write import write_atomically
from isthmus.document import number
from isthmus.errors import InvalidInput
from isthmus.goldens.tolerance import MULTIPLES
from isthmus.proof.explain.explanation import Explanation
from isthmus.proof.explain.layer_errors import SLACK
from isthmus.reports.bundle_document import range_text, shape_text, size_text
from isthmus.reports.bundle_report import BundleReport
from isthmus.reports.layers import errors_chart, multiples_chart
from isthmus.reports.matrix import name_of, per_cent
from isthmus.reports.page_parity import (
    absent,
    cell_title,
    golden_head,
    parity_rows,
    ranking,
    ruler,
    share_or_times,
    tone,
)
from isthmus.reports.page_speed import fastest, median_ms, speed_section

__all__ = ["check_jinja2", "headline", "render", "short_source", "write_html"]

_TEMPLATE = "report.html.j2"
_STYLE = "report.css"
_MAX_REASON = 300
"""The letters of a reason in the first screen; the table holds all of it."""


def check_jinja2() -> None:
    """Checks that a page can be rendered.

    Raises:
        InvalidInput: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise InvalidInput(
            "an HTML report needs jinja2; install it with: pip install 'isthmus[report]'"
        ) from error


def render(report: BundleReport) -> str:
    """Returns the page: one file without scripts, fonts or anything from the network.

    Raises:
        InvalidInput: jinja2 is not installed.
    """
    check_jinja2()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        number=number, size=size_text, per_cent=per_cent, source=short_source, shape=shape_text,
    )  # fmt: skip
    view = {
        "report": report,
        "manifest": report.bundle.manifest,
        # Not escaped: it holds nothing from the bundle.
        "style": Markup((folder / _STYLE).read_text(encoding="utf-8")),
        "headline": headline(report),
        "reason": _first_reason(report),
        "facts": _facts(report),
        "ruler": Markup(ruler(report)),
        "proof": parity_rows(report),
        "absent": absent(report.parity.rows),
        "head": golden_head(report),
        "tone": tone,
        "cell_title": cell_title,
        "ranking": ranking(report, Markup),
        "layers": [_layers(explanation, Markup) for explanation in report.explanations],
        "speed": speed_section(report.speed, Markup) if report.speed is not None else None,
        "sizes": _sizes(report),
        "range_text": range_text,
    }
    return environment.get_template(_TEMPLATE).render(view)


def write_html(report: BundleReport, path: str | Path) -> None:
    """Writes the page to a file, as a whole or not at all.

    Raises:
        InvalidInput: jinja2 is not installed, or the file cannot be written.
    """
    write_atomically(path, render(report))


def headline(report: BundleReport) -> tuple[str, str, str]:
    """Returns the verdict without its reason: the text before the name, the name, the rest."""
    ran = [row for row in report.parity.rows if row.status != "absent"]
    failed = len(report.parity.failures)
    if not ran:
        return "Nothing here could run ", report.name, ""
    if failed:
        do = "does" if failed == 1 else "do"
        ways = "way" if len(ran) == 1 else "ways"
        start = f"{failed} of {len(ran)} {ways} of running "
        return start, report.name, f" {do} not give the model's answers"
    if len(ran) == 1:
        return "The one way of running ", report.name, " here gives the model's answers"
    return f"All {len(ran)} ways of running ", report.name, " give the model's answers"


def _first_reason(report: BundleReport) -> str:
    """Returns the layer that failed first if it is known, else the reason of the first failure."""
    for explanation in report.explanations:
        if explanation.culprit is not None and report.parity.failures:
            return short_source(explanation.sentence)
    for row in report.parity.failures:
        text = f"{name_of(row, report.parity)}: {row.reason}"
        return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON].rstrip()} …"
    return ""


def _facts(report: BundleReport) -> list[tuple[str, str]]:
    """Returns the numbers of the first screen, each with a caption."""
    goldens = len(report.bundle.manifest.goldens)
    answers = sum(len(row.results) for row in report.parity.rows)
    facts = [(str(answers), f"outputs compared, on {goldens} goldens")]
    shares = [
        (cell.share, line.name) for line in report.matrix for cell in line.cells if cell.share
    ]
    if shares:
        share, name = max(shares)
        facts.append((share_or_times(share), f"of its tolerance, at most: {name}"))
    best = fastest(report.speed)
    if best is not None:
        facts.append((f"{number(median_ms(best))} ms", f"a call of the fastest: {best.label}"))
    facts.append((size_text(report.size), "the whole bundle"))
    return facts


def _layers(explanation: Explanation, markup: Any) -> dict[str, Any]:
    allowed = SLACK * MULTIPLES["rms"]
    return {
        "explanation": explanation,
        "chart": markup(multiples_chart(explanation, allowed)),
        "errors": markup(errors_chart(explanation)),
        "unseen": sum(not layer.seen for layer in explanation.layers),
        "hints": [short_source(line) for line in explanation.lines[1:]],
        "culprit": explanation.culprit,
    }


def short_source(text: str) -> str:
    """Removes from paths the folders of the machine that made the report."""
    text = re.sub(r"[^\s:'\"]*/(?:site|dist)-packages/", "", text)
    text = re.sub(r"[^\s:'\"]*/lib/python3\.\d+/", "", text)
    here = str(Path.cwd())
    return text.replace(f"{here}/", "") if len(here) > 1 else text


def _sizes(report: BundleReport) -> list[dict[str, Any]]:
    """Returns each part of the bundle with its share of the whole in per cent."""
    sizes = {part: sum(file.size for file in files) for part, files in report.parts.items()}
    return [
        {
            "name": part,
            "size": size,
            "share": round(100 * size / max(1, report.size), 1),
            "files": report.parts[part],
        }
        for part, size in sizes.items()
    ]
