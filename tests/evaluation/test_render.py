"""How numbers, tables and documents are written."""

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.evaluation.render import (
    Document,
    Fact,
    Figure,
    Picture,
    Table,
    Unit,
    counted,
    dollars,
    percent,
    table_text,
    to_json,
    to_text,
    words,
    written,
)
from cascade.state import Decision


@pytest.mark.parametrize(
    ("unit", "written_as"),
    [
        ("usd", {None: "?", math.nan: "?", 0: "$0.00", 1234.5: "$1,234", 999.999: "$1,000.00"}),
        ("usd", {12.3456: "$12.35", -0.0034: "−$0.0034", 0.000071: "$0.000071"}),
        ("usd", {Decimal("0.0000007123"): "$0.00000071", 1e-11: "<$0.00000001", -1e-17: "$0.00"}),
        ("usd", {-1e-11: "−$0.00000001"}),
        ("share", {0.738: "73.8 %", 1: "100.0 %", 0.0042: "0.42 %", 1e-6: "<0.01 %"}),
        ("share", {-0.0123: "−1.2 %", -1e-6: "−0.01 %"}),
        ("points", {0.004: "+0.4", -0.012: "−1.2", -0.0001: "0.0"}),
        ("seconds", {0: "0 ms", 0.0004: "0.4 ms", 0.94876: "949 ms", 1.44: "1.4 s", -2: "−2.0 s"}),
        ("seconds", {1e-6: "<0.01 ms", 59.4: "59 s", 1250: "1,250 s"}),
        ("number", {-0.5: "−0.5", 0: "0"}),
        ("count", {-1_000: "−1,000", None: "?"}),
    ],
)
def test_a_number_has_the_digits_that_count(unit: Unit, written_as: dict[Any, str]) -> None:
    for value, said in written_as.items():
        assert written(value, unit) == said


def test_words_may_have_other_digits_and_a_plural() -> None:
    assert (percent(0.5), percent(None), dollars(2)) == ("50.0 %", "?", "$2.00")
    assert (counted(1, "audit"), counted(2_000, "audit")) == ("1 audit", "2,000 audits")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_number_is_written_with_a_power_of_ten_or_a_long_tail(value: float) -> None:
    for unit in get_args(Unit)[:-1]:  # days are none
        said = written(value, unit)
        assert "e" not in said.replace("sec", "")
        assert "E" not in said
        assert len(said.partition(".")[2]) <= 10


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (None, "?"),
        ("words", "words"),
        (Figure(0.738, "share", 0.701, 0.769), "73.8 % (70.1 to 76.9)"),
        (Figure(1.2, "usd", 0.9, 1.5, "estimated"), "≈ $1.20 ($0.90 to $1.50)"),
        (Figure(None, "usd", 0.9, None), "? ($0.90 to ?)"),
        (Figure(1.2, "usd", partial=True), "$1.20 + ?"),
        (Figure(0.0, "share", 0.0, 0.0), "0.0 %"),
        (Figure(3, "count"), "3"),
    ],
)
def test_a_cell_says_how_sure_it_is(cell: Any, said: str) -> None:
    assert words(cell) == said


TABLE = Table(
    "By tier",
    ("tier", "cost", "why"),
    (("small", Figure(0.012, "usd"), "cheap"), ("large", None, "dear " * 20)),
    notes=("A note.",),
    strong=1,
)


def test_a_table_stands_in_columns_with_words_to_the_left() -> None:
    lines = table_text(TABLE).splitlines()
    assert lines[0] == "By tier"
    assert lines[1].split() == ["tier", "cost", "why"]
    assert lines[2].startswith("  small  $0.012  cheap")
    assert lines[3].startswith("→ large       ?  dear")
    assert lines[4].startswith(" " * 17 + "dear")  # long words go on in the next line
    assert lines[-1] == "A note."


def test_a_document_in_text_has_everything_but_its_pictures() -> None:
    said = to_text(
        Document(
            title="Title",
            sentence="It saves.",
            tables=(TABLE,),
            pictures=(Picture("Picture", "x", "y"),),
            facts=(Fact("saved", Figure(1, "usd"), "95 %"), Fact("escalated", "?")),
            notes=("long " * 40,),
        )
    )
    facts = "saved      $1.00  95 %\nescalated      ?"
    assert said.startswith(f"Title\n\nIt saves.\n\n{facts}\n\n- long")
    assert "Picture" not in said
    assert max(map(len, said.splitlines())) <= 100


def test_a_line_break_within_words_breaks_no_table() -> None:
    assert "- first second" in to_text(Document("t", "s", notes=("first\nsecond",)))
    assert "first second" in table_text(Table("t", ("a",), (("first\nsecond",),)))


def test_json_holds_no_nan_and_every_digit_of_money() -> None:
    data = {
        "money": Decimal("1E-15"),
        "numpy": (np.array([1.5, np.nan]), np.int64(3)),
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "record": Decision(action="accept", reason="sure"),
        "document": Document("t", "s", facts=(Fact("f", Figure(math.inf)),)),
    }
    found = json.loads(to_json(data))
    assert Decimal(found["money"]) == Decimal("1E-15")
    assert found["numpy"] == [[1.5, None], 3]
    assert found["at"] == "2026-01-01T00:00:00Z"
    assert found["record"]["action"] == "accept"
    assert found["document"]["facts"][0]["figure"]["value"] is None
    with pytest.raises(Exception, match="no attribute 'tolist'"):
        to_json(object())
