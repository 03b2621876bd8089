"""The page of a document, with its pictures."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import date
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.evaluation.page import HEIGHT, WIDTH, body, span, tick, ticks, to_figure, to_page
from cascade.evaluation.render import (
    Axis,
    Document,
    Fact,
    Figure,
    Mark,
    Picture,
    Series,
    Table,
)

DAY = float(date(2026, 3, 1).toordinal())

PLANE = Picture(
    "Cost and quality",
    Axis("cost", "share", 0.0),
    Axis("right answers", "share"),
    (
        Series("draft first", ((0.1, 0.6), (1.0, 0.7))),
        Series("at random", ((0.0, 0.5), (1.0, 0.7)), role="other", dashed=True),
        Series("", ((0.5, float("nan")),)),
    ),
    (Mark("small alone", 0.1, 0.6, "small"), Mark("small, sampled", 0.11, 0.601, "small")),
)
DAYS = Picture(
    "Saving per day",
    Axis("day", "days"),
    Axis("dollars", "usd"),
    (Series("saved", ((DAY, 1.0), (DAY + 1, -0.5)), "dots", ranges=((0.5, 1.5), (-1.0, 0.0))),),
)
DOCUMENT = Document(
    title="What <b>it</b> saved",
    sentence="It saves: run `cascade plan`.",
    tables=(
        Table("By tier", ("tier", "cost", "w"), (("small", Figure(1, "usd", 0, 2), "a"),), ("n",)),
        Table("More", ("a",), (("b",),), folded=True, strong=0),
        Table("Nothing", ("a",), ()),
    ),
    pictures=(PLANE, DAYS),
    facts=(
        Fact("saved", Figure(1.2, "usd", 0.9, 1.5, "estimated"), "95 %"),
        Fact("checked", "0 of 20"),
    ),
    notes=("one ` alone", "x" * 500),
    tone="good",
)


def test_a_page_is_well_formed_and_loads_its_style_sheet_alone() -> None:
    for part in ElementTree.fromstring(f"<main>{body(DOCUMENT)}</main>").iter():
        assert not {"src", "href", "style", "onload", "onclick"} & set(part.keys())
    assert not any(said in to_page(DOCUMENT) for said in ("<script", "@import", "url("))
    page = to_page(DOCUMENT)
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}';" in page


@pytest.mark.parametrize(
    "part",
    [
        "<h1>What &lt;b&gt;it&lt;/b&gt; saved</h1>",  # words of others are escaped
        "<code>cascade plan</code>",
        "one ` alone",
        "<dd>≈ $1.20<small>$0.90 to $1.50; 95 %</small></dd>",
        "<td>$1.00 <small>($0.00 to $2.00)</small></td>",
        '<th scope="col">cost</th>',
        '<th scope="row">small</th>',
        'role="region" tabindex="0" aria-label="By tier"',
        "<details><summary>More</summary>",
        '<tr class="strong">',
        ">at random</text>",
    ],
)
def test_a_page_has_every_part_of_its_document(part: str) -> None:
    assert part in to_page(DOCUMENT)


def _texts(svg: str) -> list[tuple[float, float, float]]:
    """Left end, right end and line of each name."""
    found = []
    for x, y, anchor, name in re.findall(
        r'<text class="name \w+" x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)">([^<]*)<', svg
    ):
        wide = 7.6 * len(name)
        left = float(x) if anchor == "start" else float(x) - wide
        found.append((left, left + wide, float(y)))
    return found


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_no_name_covers_another_and_all_stay_inside(places: list[tuple[float, float]]) -> None:
    marks = tuple(Mark(f"model {i}", x, y) for i, (x, y) in enumerate(places))
    svg = to_figure(Picture("p", Axis("x", "share", 0, 1), Axis("y", "share", 0, 1), marks=marks))
    texts = _texts(svg)
    assert len(texts) == len(marks)
    for i, (left, right, line) in enumerate(texts):
        assert left >= 0
        assert right <= WIDTH
        assert 0 < line < HEIGHT
        for other_left, other_right, other in texts[:i]:
            assert abs(line - other) >= 15.9 or right <= other_left or other_right <= left


def test_what_is_no_number_is_left_out_of_a_drawing() -> None:
    assert "nan" not in to_figure(PLANE)
    assert span(PLANE, "x") == (0.0, 1.02)
    assert span(Picture("p", Axis("x", low=1, high=1), Axis("y")), "x") == (1, 2)
    odd = Series("s", ((0.0, 1.0),), "dots", ranges=((float("-inf"), 1.0),))
    assert "inf" not in to_figure(Picture("p", Axis("x"), Axis("y"), (odd,)))
    mark = Mark("m", 0, float("inf"))
    assert "inf" not in to_figure(Picture("p", Axis("x"), Axis("y"), marks=(mark,)))


@pytest.mark.parametrize(
    ("ends", "unit", "wanted"),
    [
        ((0.0, 1.0), "share", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ((0.0, 12.0), "count", [0.0, 2.5, 5.0, 7.5, 10.0]),
        ((DAY - 0.5, DAY + 3.5), "days", [DAY, DAY + 1, DAY + 2, DAY + 3]),
        ((DAY, DAY + 2000), "days", [DAY + 400 * i for i in range(6)]),
    ],
)
def test_ticks_are_round(ends: tuple[float, float], unit: str, wanted: list[float]) -> None:
    assert ticks(ends, unit) == pytest.approx(wanted)


def test_ticks_are_short() -> None:
    shares = [tick(0.25, "share"), tick(-0.012, "share")]
    assert [*shares, tick(2.0, "usd"), tick(DAY, "days")] == ["25 %", "−1.2 %", "$2", "Mar 1"]
