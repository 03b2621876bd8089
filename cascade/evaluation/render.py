"""Documents of figures, tables and pictures, as text for people and as JSON for machines.

Every command and report builds a `Document` and shows it in one of four ways: `to_text` here,
`to_json` here, `cascade.evaluation.page.to_page` and `cascade.evaluation.plots.save`. A number is
given once, as a `Figure` with its unit, and rounded only where it is shown.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Literal

from pydantic import BaseModel, JsonValue

from cascade.state import Basis

Number = int | float | Decimal

Unit = Literal["usd", "share", "points", "seconds", "count", "number"]
"""How a number is written: dollars; a share of 1 as percent; a share of 1 as signed percentage
points; seconds; a whole number; any other number."""

Tone = Literal["good", "bad", "open"]
"""Whether the sentence of a document is good news, bad news, or neither."""

Role = Literal["cascade", "small", "large", "router", "other"]
"""What a line, dot or bar stands for; it has the same colour in every picture."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its unit, its 95 % interval, and how it is known.

    An estimate is shown behind `≈`, an unknown number as `?`, and a sum of which a part is unknown
    (`partial`) as `$1.20 + ?`.
    """

    value: Number | None
    unit: Unit = "number"
    low: Number | None = None
    high: Number | None = None
    basis: Basis = "measured"
    partial: bool = False


Cell = Figure | str | None
"""A figure, words, or None for what is unknown; "" for what does not apply."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure of the first view: what it is, its value, and what to know about it."""

    label: str
    figure: Figure | str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under column heads.

    Attributes:
        title: what it is about.
        columns: heads; the first may be empty.
        rows: as many cells each as there are columns.
        notes: sentences below the table.
        strong: index of the row that stands out, such as a total or a recommendation.
        folded: whether a page shows it only when it is opened.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    strong: int | None = None
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """Title and unit of an axis; `days` are ordinals as `datetime.date.toordinal` gives them.

    Without `low` and `high` the axis ends around its values.
    """

    title: str
    unit: Unit | Literal["days"] = "number"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Named values of one kind in a picture.

    Attributes:
        name: in the legend; a series without a name is not in it.
        points: (x, y) in the units of the axes.
        kind: a line, dots, or bars that stand on 0.
        role: decides the colour.
        dashed: whether a line is broken: references such as a random mix.
        ranges: (low, high) of each point, drawn as an upright line.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    kind: Literal["line", "dots", "bars"] = "line"
    role: Role = "cascade"
    dashed: bool = False
    ranges: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A single place with its name beside it."""

    name: str
    x: float
    y: float
    role: Role = "cascade"


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart with two axes; the legend stands outside of it."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...] = ()
    marks: tuple[Mark, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """What a command or a report has to say.

    Attributes:
        title: a few words.
        sentence: the answer in one sentence.
        tables: in order of weight.
        pictures: shown on a page and by a plotter, not in text.
        facts: the figures of the first view.
        notes: sentences that a reader must know besides.
        tone: whether the sentence is good news.
    """

    title: str
    sentence: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    tone: Tone = "open"


# Numbers in words -----------------------------------------------------------------------------

UNKNOWN = "?"
ESTIMATED = "≈ "
_NOISE = Decimal("1e-12")
"""Less than this is the rounding of floats."""
_TINY_USD = Decimal("1e-8")
_TINY_SHARE = Decimal("1e-4")


def dollars(amount: Number | None) -> str:
    """`$1,234`, `$12.30`, `$0.0123`, `$0.0000071`; `?` where unknown.

    Three digits, two below a hundredth of a cent, never more than eight decimals.
    """
    value = _known(amount)
    if value is None:
        return UNKNOWN
    size = abs(value)
    if not size:
        return "$0.00"
    if size < _TINY_USD:
        return "<$0.00000001" if value > 0 else "−$0.00"
    sign = "−" if value < 0 else ""
    if size >= 1000:
        return f"{sign}${size:,.0f}"
    digits = 3 if size >= Decimal("1e-4") else 2
    places = max(2, min(8, digits - 1 - size.adjusted()))
    whole, _, cents = f"{size:,.{places}f}".partition(".")
    return f"{sign}${whole}.{cents[:2]}{cents[2:].rstrip('0')}"


def percent(share: Number | None, digits: int | None = None) -> str:
    """`73.8 %`; two decimals below 1 %, unless `digits` says otherwise; `?` where unknown."""
    value = _known(share)
    if value is None:
        return UNKNOWN
    if digits is None and 0 < abs(value) < _TINY_SHARE:
        return "<0.01 %" if value > 0 else "−0.01 %"
    places = digits if digits is not None else 2 if 0 < abs(value) < Decimal("0.01") else 1
    return f"{_signed(100 * value, places)} %"


def points(change: Number | None, digits: int = 1) -> str:
    """`−1.2`, `+0.4`: a difference of shares in percentage points; `?` where unknown."""
    value = _known(change)
    if value is None:
        return UNKNOWN
    words = _signed(100 * value, digits)
    return words if words.startswith("−") or not value or not float(words) else f"+{words}"


def seconds(time: Number | None) -> str:
    """`12 ms`, `1.4 s`, `2 min 5 s`, `3 h 12 min`; `?` where unknown."""
    value = _known(time)
    if value is None:
        return UNKNOWN
    size = abs(float(value))
    if 0 < size < 1e-5:
        return "<0.01 ms"
    sign = "−" if value < 0 else ""
    if size < 0.9995:
        ms = size * 1000
        return f"{sign}{ms:.0f} ms" if ms >= 10 or not ms else f"{sign}{ms:.2g} ms"
    if size < 99.5:
        return f"{sign}{size:.1f} s" if size < 9.95 else f"{sign}{size:.0f} s"
    whole = round(size)
    if whole < 3600:
        return f"{sign}{whole // 60} min {whole % 60} s"
    minutes = round(size / 60)
    return f"{sign}{minutes // 60:,} h {minutes % 60} min"


def number(value: Number | None) -> str:
    """Three significant digits without a power of ten; `?` where unknown."""
    known = _known(value)
    if known is None:
        return UNKNOWN
    if not known:
        return "0"
    places = max(0, min(6, 2 - known.adjusted()))
    words = _signed(known, places, ",")
    return words.rstrip("0").rstrip(".") if "." in words else words


def count(n: Number | None) -> str:
    """`1,234`; `?` where unknown."""
    value = _known(n)
    return UNKNOWN if value is None else _signed(value, 0, ",")


def counted(n: int, what: str, plural: str | None = None) -> str:
    """`1 audit`, `2,000 audits`, `3 entries`."""
    return f"{n:,} {what if n == 1 else plural or f'{what}s'}"


_WORDS: Mapping[str, Callable[[Number | None], str]] = {
    "usd": dollars,
    "share": percent,
    "points": points,
    "seconds": seconds,
    "count": count,
    "number": number,
}


def words(cell: Cell, *, interval: bool = True) -> str:
    """A cell as people read it: `≈ $1.20 ($0.90 to $1.50)`, `73.8 % (70.1 to 76.9)`, `?`."""
    if not isinstance(cell, Figure):
        return UNKNOWN if cell is None else cell
    write = _WORDS[cell.unit]
    said = write(cell.value)
    if said == UNKNOWN or cell.basis == "unknown":
        said = UNKNOWN
    elif cell.basis == "estimated":
        said = f"{ESTIMATED}{said}"
    if cell.partial and said != UNKNOWN:
        said = f"{said} + {UNKNOWN}"
    known = {_known(end) for end in (cell.low, cell.high)} - {None}
    if not interval or not known or known == {_known(cell.value)}:
        return said
    if said == UNKNOWN and _known(cell.low) == 0 and cell.high is None:
        return said  # at least nothing
    low, high = (write(end) for end in (cell.low, cell.high))
    if low.endswith(" %") and high.endswith(" %"):
        low, high = low.removesuffix(" %"), high.removesuffix(" %")
    return f"{said} ({low} to {high})"


def _known(value: Number | None) -> Decimal | None:
    if value is None:
        return None
    exact = value if isinstance(value, Decimal) else Decimal(str(value))
    if not exact.is_finite():
        return None
    return exact if abs(exact) >= _NOISE else Decimal(0)


def _signed(value: Decimal, places: int, group: str = "") -> str:
    said = f"{abs(value):{group}.{places}f}"
    return f"−{said}" if value < 0 and said.strip("0.,") else said


_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, ESC and the one-character CSI among them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks of direction
    "\u2028\u2029"  # what some programs take for the end of a line
    "\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible letters
    "\ud800-\udfff]"  # halves of characters, which no file takes
)


def printable(text: str, keep: str = "") -> str:
    r"""The text of others as it may stand on a terminal: `\x1b` instead of what acts.

    Args:
        text: from anywhere.
        keep: acting characters that stay, such as line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return _ACTING.sub(
        lambda found: (
            found[0] if found[0] in keep else found[0].encode("unicode_escape").decode("ascii")
        ),
        text,
    )


# Text -----------------------------------------------------------------------------------------

WIDTH = 100
"""Columns of a terminal that text is wrapped to."""

_LONGEST = 44
"""Letters of a cell, from which on it is wrapped."""


def to_text(document: Document, *, width: int = WIDTH) -> str:
    """A document for a terminal, without pictures."""
    parts = [printable(document.title), _wrapped(document.sentence, width)]
    if document.facts:
        parts.append(_columns([_fact(fact) for fact in document.facts], frozenset({0, 2})))
    if document.notes:
        parts.append("\n".join(_item(note, width) for note in document.notes))
    parts += [table_text(table, width=width) for table in document.tables]
    return "\n\n".join(part for part in parts if part)


def table_text(table: Table, *, width: int = WIDTH) -> str:
    """A table in columns: figures to the right, words to the left."""
    marked = table.strong is not None
    lines = [
        (
            f"{'→ ' if marked and i == table.strong else '  ' if marked else ''}{words(row[0])}",
            *(words(cell) for cell in row[1:]),
        )
        for i, row in enumerate(table.rows)
    ]
    left = {
        i
        for i in range(len(table.columns))
        if i == 0 or (table.rows and all(isinstance(row[i], str) for row in table.rows))
    }
    body = _columns([table.columns, *lines], left) if table.columns else ""
    notes = (_wrapped(note, width) for note in table.notes)
    return "\n".join(
        part for part in (printable(table.title), body if lines else "", *notes) if part
    )


def _fact(fact: Fact) -> tuple[str, str, str]:
    return fact.label, words(fact.figure), fact.note


def _wrapped(text: str, width: int, after: str = "") -> str:
    line = printable(" ".join(text.split()))
    return textwrap.fill(line, width, subsequent_indent=after, break_on_hyphens=False)


def _item(text: str, width: int) -> str:
    return _wrapped(f"- {text}", width, "  ")


def _columns(lines: Iterable[Sequence[str]], left: AbstractSet[int]) -> str:
    """Cells in columns as wide as they must be; long words in several lines."""
    cells = [[_lines(cell) for cell in line] for line in lines]
    wide = [max(len(part) for line in cells for part in line[i]) for i in range(len(cells[0]))]
    shown = []
    for line in cells:
        for part in range(max(len(cell) for cell in line)):
            pieces = [cell[part] if part < len(cell) else "" for cell in line]
            shown.append(
                "  ".join(
                    piece.ljust(size) if i in left else piece.rjust(size)
                    for i, (piece, size) in enumerate(zip(pieces, wide, strict=True))
                ).rstrip()
            )
    return "\n".join(shown)


def _lines(cell: str) -> list[str]:
    text = printable(cell.replace("\n", " "))
    if len(text) <= _LONGEST:
        return [text]
    indent = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(text, _LONGEST, subsequent_indent=f"{indent}  ") or [""]


# JSON -----------------------------------------------------------------------------------------


def to_json(value: object, *, indent: int | None = 2) -> str:
    """A document, or any record, as JSON: see `to_data`."""
    return json.dumps(to_data(value), indent=indent, ensure_ascii=False, allow_nan=False)


def to_data(value: object) -> JsonValue:
    """What `json.dumps` takes.

    Records become objects, also pydantic's; a `Decimal` becomes a string without an exponent, so
    that no digit is lost; a number that is not finite becomes null; dates are ISO 8601.
    """
    if isinstance(value, Enum):
        return to_data(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        written = f"{value:f}" if isinstance(value, Decimal) else float(value)
        return written if math.isfinite(value) else None
    if isinstance(value, date):
        return value.isoformat()
    return _nested(value)


def _nested(value: object) -> JsonValue:
    if isinstance(value, BaseModel):
        return {name: to_data(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_data(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_data(item) for key, item in value.items()}
    if to_list := getattr(value, "tolist", None):  # numpy's
        return to_data(to_list())
    if isinstance(value, Iterable):
        items = sorted(value, key=str) if isinstance(value, AbstractSet) else value
        return [to_data(item) for item in items]
    raise TypeError(f"a {type(value).__name__} has no form in JSON")
