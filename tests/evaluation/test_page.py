"""The page of a document, with its pictures."""

import base64
import hashlib
import math
import re
from datetime import date
from xml.etree import ElementTree

import pytest

from cascade.evaluation.render import (
    Document,
    Fact,
    Figure,
    Picture,
    Series,
    Table,
    body,
    to_figure,
    to_page,
)

DAY = float(date(2026, 3, 1).toordinal())

PLANE = Picture(
    "Cost and quality",
    "cost",
    "right answers",
    (
        Series("draft first", ((0.1, 0.6), (1.0, 0.7))),
        Series("at random", ((0.0, 0.5), (1.0, 0.7)), role="other"),
        Series("small alone", ((0.1, 0.6),), "dots", "small"),
    ),
)
DAYS = Picture(
    "Saving per day",
    "day",
    "dollars",
    (Series("saved", ((DAY, 1.0, 0.5, 1.5), (DAY + 1, -0.5, -1.0, 0.0)), "dots"),),
    ("days", "usd"),
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
    assert f"style-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "part",
    [
        "<h1>What &lt;b&gt;it&lt;/b&gt; saved</h1>",  # words of others are escaped
        "<code>cascade plan</code>",
        "one ` alone",
        "<dd>≈ $1.20 <small>($0.90 to $1.50) 95 %</small></dd>",
        "<td>$1.00 <small>($0.00 to $2.00)</small></td>",
        '<th scope="col">cost</th>',
        '<th scope="row">small</th>',
        'role="region" tabindex="0" aria-label="By tier"',
        "<details><summary>More</summary>",
        '<tr class="strong">',
        "</svg>at random</span>",
    ],
)
def test_a_page_has_every_part_of_its_document(part: str) -> None:
    assert part in to_page(DOCUMENT)


def test_what_is_no_number_is_left_out_of_a_drawing() -> None:
    odd = Series("s", ((0.0, 1.0, -math.inf, 1.0), (0.0, math.inf)), "dots")
    none = Series("none", ((math.nan, 1.0),))
    drawn = to_figure(Picture("p", "x", "y", (odd, none), ("number", "number")))
    assert not any(said in drawn for said in ("nan", "inf"))
    assert [way.count("M") for way in re.findall(r'class="dots[^"]*" d="([^"]*)"', drawn)] == [1, 1]
