"""Documents of figures, tables and pictures: as text, as JSON for machines, and as an HTML page.

A number is given once, as a `Figure` with its unit, and rounded only where it is shown. A page has
no script and no other host, and reads well on a phone, on paper, in the dark, and by screen reader.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import partial
from html import escape
from importlib.resources import files
from io import StringIO
from operator import methodcaller
from typing import Any, Literal

import pydantic_core
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from cascade.state import Basis

Number = int | float | Decimal

Unit = Literal["usd", "share", "points", "seconds", "count", "number", "days"]
"""Form of a number; `share` and `points` are a share of 1, as percent and as signed percentage
points, `count` is a whole number, `days` are ordinals of dates."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its unit, 95 % interval, and the `n` audits or examples that it rests on; an
    estimate is shown as `≈ 3`, an unknown as `?`, a `partial` sum, of known parts, as `$1.20 + ?`.
    """

    value: Number | None
    unit: Unit = "number"
    low: Number | None = None
    high: Number | None = None
    basis: Basis = "measured"
    partial: bool = False
    n: int | None = None
    method: str = ""

    @property
    def numbers(self) -> tuple[float, ...]:
        """Value, low and high for arithmetic; NaN where one is unknown."""
        known = (self.value, self.low, self.high)
        return tuple(math.nan if each is None else float(each) for each in known)

    def map(self, change: Callable[[Any], Number | None], unit: Unit | None = None) -> Figure:
        """A monotone function of it, with the ends of its interval in order."""
        numbers = (self.value, self.low, self.high)
        value, low, high = (None if each is None else change(each) for each in numbers)
        if low is not None and high is not None and low > high:
            low, high = high, low
        return replace(self, value=value, low=low, high=high, unit=unit or self.unit)


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
    """Rows of as many cells as there are columns, with sentences below them; `strong` is the index
    of the row that stands out, and a page shows a `folded` one only when it is opened."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    strong: int | None = None
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """Values under one name of the legend: (x, y), or with an interval (x, y, low, high); what is
    not finite is not drawn. Its `role` gives it its colour; a line of others is dashed."""

    name: str
    points: tuple[tuple[float, ...], ...]
    kind: Literal["line", "dots"] = "line"
    role: Literal["cascade", "small", "large", "other"] = "cascade"


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart with titles and units of its two axes."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...] = ()
    units: tuple[Unit, Unit] = ("share", "share")


@dataclass(frozen=True, slots=True)
class Document:
    """A command's or a report's answer in a sentence, whose `tone` says whether it is good news,
    with tables by weight, pictures for a page, facts of the first view, sentences to know besides,
    and what is wrong now (None where nothing watches)."""

    title: str
    sentence: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    tone: Literal["good", "bad", "open"] = "open"
    alarms: tuple[str, ...] | None = None


def counted(n: int, what: str) -> str:
    """`1 audit`, `2,000 audits`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def written(value: Number | None, unit: Unit) -> str:
    """A number as people read it, such as `−1.2` points, `1.4 s`, `<0.01 %`; `?` where unknown."""
    if value is None or not math.isfinite(value):
        return "?"
    # More than thirteen digits, or less than 1e-12, are the rounding of floats.
    known = Decimal(f"{value:.13g}") if abs(float(value)) >= 1e-12 else Decimal(0)
    size, (least, form) = abs(known), _FORMS[unit]
    sign = "−" if known < 0 else "+" if unit == "points" else ""
    if 0 < size < Decimal(least):
        sign, size = sign or "<", Decimal(least)
    said = form(size)
    return f"{sign}{said}" if re.search("[1-9]", said) else said


def _digits(size: Decimal, fewest: int, most: int) -> str:
    """Three digits that count, within so many decimals; no zeros at the end of more than those."""
    places = max(fewest, min(most, 2 - size.adjusted()))
    whole, _, part = f"{size:,.{places}f}".partition(".")
    part = part[:fewest] + part[fewest:].rstrip("0")
    return f"{whole}.{part}" if part else whole


def _seconds(size: Decimal) -> str:
    if size >= Decimal("0.9995"):
        return f"{size:,.{int(size < Decimal('9.95'))}f} s"
    ms = float(size) * 1000
    return f"{ms:.0f} ms" if ms >= 10 or not ms else f"{ms:.2g} ms"


_FORMS: Mapping[Unit, tuple[str, Callable[[Decimal], str]]] = {
    "usd": ("1e-8", lambda size: f"${_digits(size, 2 if size < 1000 else 0, 8)}"),
    "share": ("1e-4", lambda size: f"{100 * size:,.{2 if 0 < size < Decimal('.01') else 1}f} %"),
    "points": ("0", lambda size: f"{100 * size:,.1f}"),
    "seconds": ("1e-5", _seconds),
    "count": ("0", lambda size: f"{size:,.0f}"),
    "number": ("0", lambda size: _digits(size, 0, 6)),
    "days": ("0", lambda size: f"{date.fromordinal(round(size)):%b %-d}"),
}
"""How a size is written; what is less than so much, and not nothing, is written as less."""


def words(cell: Cell) -> str:
    """A cell as people read it: `≈ $1.20 ($0.90 to $1.50)`, `73.8 % (70.1 to 76.9)`, `?`."""
    said, between = _words(cell)
    return f"{said} ({between})" if between else said


def _words(cell: Cell) -> tuple[str, str]:
    """A cell and its interval; "" where it has none, or it says nothing."""
    if not isinstance(cell, Figure):
        return "?" if cell is None else cell, ""
    said = written(cell.value, cell.unit)
    if said != "?":
        said = f"{'≈ ' * (cell.basis == 'estimated')}{said}{' + ?' * cell.partial}"
    value, low, high = cell.numbers
    ends = [written(end, cell.unit) for end in (low, high)]
    at_least_nothing = low == 0 and math.isnan(value) and math.isnan(high)
    if at_least_nothing or ends == ["?", "?"] or low == high == value:
        return said, ""
    if all(end.endswith(" %") for end in ends):
        ends = [end.removesuffix(" %") for end in ends]
    return said, " to ".join(ends)


dollars, percent = partial(written, unit="usd"), partial(written, unit="share")
"""`$1,234`, `$12.30`, `$0.0123`, `73.8 %`, `0.42 %`, `?` where unknown."""

LONGEST = 44  # letters of a cell in text; what is longer goes on in another line
_wrapped = partial(textwrap.fill, width=100, break_on_hyphens=False)


def to_text(document: Document) -> str:
    """A document for a terminal, without pictures."""
    facts = [(fact.label, words(fact.figure), fact.note) for fact in document.facts]
    notes = [*(f"Wrong now: {alarm}" for alarm in document.alarms or ()), *document.notes]
    parts = [
        document.title,
        _wrapped(document.sentence),
        _columns(facts, {0, 2}) if facts else "",
        "\n".join(_wrapped(f"- {note}", subsequent_indent="  ") for note in notes),
        *map(table_text, document.tables),
    ]
    return "\n\n".join(filter(None, parts))


def table_text(table: Table) -> str:
    """A table in columns: figures to the right, words to the left."""
    lines = [table.columns]
    for i, row in enumerate(table.rows):
        mark = "" if table.strong is None else "→ " if i == table.strong else "  "
        lines.append((f"{mark}{words(row[0])}", *map(words, row[1:])))
    parts = [table.title, _columns(lines, _left(table)) if table.rows else ""]
    return "\n".join(filter(None, [*parts, *map(_wrapped, table.notes)]))


def _left(table: Table) -> set[int]:
    """Indices of the columns of words, which stand to the left."""
    columns = range(1, len(table.columns))
    return {0, *(i for i in columns if all(isinstance(row[i], str) for row in table.rows))}


def _columns(lines: Sequence[Sequence[str]], left: Collection[int]) -> str:
    """Cells in columns as wide as they must be; long words in several lines."""
    grid = Grid.grid(padding=(0, 2))
    for i in range(len(lines[0])):
        grid.add_column(justify="left" if i in left else "right", max_width=LONGEST)
    for line in lines:
        grid.add_row(*(Text(cell.replace("\n", " ")) for cell in line))
    shown = StringIO()
    Console(width=LONGEST * 2 * len(lines[0]), file=shown, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in shown.getvalue().splitlines())


def to_json(value: object, *, indent: int | None = 2) -> str:
    """A document, or any record, as JSON: a `Decimal` is a string, so that no digit is lost, and a
    number that is not finite is null."""
    options: Any = {"inf_nan_mode": "null", "fallback": methodcaller("tolist")}  # of numpy
    try:
        return pydantic_core.to_json(value, indent=indent, **options).decode()
    except pydantic_core.PydanticSerializationError:  # half of a surrogate pair
        return json.dumps(pydantic_core.to_jsonable_python(value, **options), indent=indent)


STYLE = files("cascade.evaluation").joinpath("page.css").read_text(encoding="utf-8")
POLICY = (
    f"default-src 'none'; img-src data:; form-action 'self'; base-uri 'none'; style-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)
"""The style sheet of all pages, and what a browser may load beside a page: nothing but that."""


def to_page(document: Document) -> str:
    """The whole page."""
    return framed(document.title, body(document))


def framed(title: str, inner: str) -> str:
    """HTML with what belongs around it."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n<title>{escape(title)}</title>\n'
        f"</head>\n<body>\n<main>\n{inner}\n</main>\n</body>\n</html>\n"
    )


def body(document: Document) -> str:
    """A document as HTML."""
    alarm = "" if document.alarms is None else '<p class="sentence good">No alarm now.</p>'
    if document.alarms:
        listed = _bullets(document.alarms)
        alarm = f'<section class="sentence bad" role="alert"><h2>Wrong now</h2>{listed}</section>'
    known = ((escape(fact.label), _cell(fact.figure, fact.note)) for fact in document.facts)
    facts = "".join(f"<div><dt>{label}</dt><dd>{figure}</dd></div>" for label, figure in known)
    drawn = "".join(map(to_figure, document.pictures))
    parts = [
        f"<h1>{escape(document.title)}</h1>",
        f'<p class="sentence {document.tone}">{marked(document.sentence)}</p>',
        alarm,
        facts and f'<dl class="facts">{facts}</dl>',
        _bullets(document.notes),
        drawn and f'<div class="pictures">{drawn}</div>',
        *map(table_html, document.tables),
    ]
    return "\n".join(filter(None, parts))


def _bullets(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{marked(note)}</li>" for note in notes)
    return items and f"<ul>{items}</ul>"


def marked(sentence: str) -> str:
    """A sentence as HTML, with what stands between backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(sentence))


def table_html(table: Table) -> str:
    """A table under its title."""
    title, left = escape(table.title), _left(table)
    sides = [' class="left"' * (i in left) for i in range(len(table.columns))]
    columns = zip(sides, map(escape, table.columns), strict=True)
    heads = "".join(f'<th scope="col"{side}>{head}</th>' for side, head in columns)
    rows = ""
    for i, (name, *row) in enumerate(table.rows):
        cells = zip(sides[1:], map(_cell, row), strict=True)
        shown = "".join(f"<td{side}>{cell}</td>" for side, cell in cells)
        strong = ' class="strong"' * (i == table.strong)
        rows += f'<tr{strong}><th scope="row">{_cell(name)}</th>{shown}</tr>'
    grid = rows and (
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    inner = grid + "".join(f'<p class="soft">{marked(note)}</p>' for note in table.notes)
    if table.folded:
        return f"<details><summary>{title}</summary>{inner}</details>"
    return f"<section><h2>{title}</h2>{inner}</section>"


def _cell(cell: Cell, note: str = "") -> str:
    said, between = map(escape, _words(cell))
    small = f"({between}) {escape(note)}".rstrip() if between else escape(note)
    return f"{said} <small>{small}</small>" if small else said


_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 58, 456, 30, 294, 344


def to_figure(picture: Picture) -> str:
    """A drawing under its title and legend; its colours are classes of the page around it."""
    points = [point for series in picture.series for point in series.points]
    left, right, across = _axis([point[0] for point in points], picture.units[0])
    bottom, top, up = _axis([y for point in points for y in point[1:]], picture.units[1])

    def x(value: float) -> float:
        return _LEFT + (value - left) / (right - left) * (_RIGHT - _LEFT)

    def y(value: float) -> float:
        return _BOTTOM + (value - bottom) / (top - bottom) * (_TOP - _BOTTOM)

    drawn = [_text(_RIGHT, _HEIGHT - 8, picture.x), _text(4, _TOP - 15, picture.y, "start")]
    for value, said in up.items():
        drawn.append(f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_RIGHT}"/>')
        drawn.append(_text(_LEFT - 7, y(value) + 4, said))
    for value, said in across.items():
        drawn.append(_text(x(value), _BOTTOM + 18, said, "middle"))
    zero = y(0.0 if bottom < 0 < top else bottom)
    drawn.append(f'<path class="base" d="M{_LEFT} {zero:.1f}H{_RIGHT}"/>')
    legend = ""
    for series in picture.series:
        places, drawing = [], f'<path class="{series.kind} {series.role}"'
        for at, value, *ends in series.points:
            if ends and math.isfinite(at + sum(ends)):
                low, high = map(y, ends)
                drawn.append(f'<path class="range" d="M{x(at):.1f} {low:.1f}V{high:.1f}"/>')
            if math.isfinite(at + value):
                places.append(f"{x(at):.1f} {y(value):.1f}")
        way = ("h0M" if series.kind == "dots" else "L").join(places)
        drawn.append(f'{drawing} d="M{way}h0"/>' if places else "")
        key = f'{drawing} d="{"M1 6h20" if series.kind == "line" else "M11 6h0"}"/>'
        legend += f'<span><svg viewBox="0 0 22 12">{key}</svg>{escape(series.name)}</span> '
    label = escape(f"{picture.title}: {picture.y} by {picture.x}")
    return (
        f'<figure><figcaption>{escape(picture.title)}</figcaption><p class="legend">{legend}</p>'
        f'<svg viewBox="0 0 480 {_HEIGHT}" role="img" aria-label="{label}">{"".join(drawn)}'
        "</svg></figure>"
    )


def _axis(values: Iterable[float], unit: Unit) -> tuple[float, float, dict[float, str]]:
    """The ends of an axis around all values with some air, and at most seven round numbers, or
    days, between them with how they are written."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    air = 0.6 if unit == "days" else 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    low, top = max(0.0, low - air) if low >= 0 else low - air, high + air
    high = min(1.02, top) if high <= 1 and unit == "share" else top
    rough = (high - low) / 6
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * (1 - 1e-9))
    step = max(step, 1.0) if unit == "days" else step
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    said = {i * step: written(i * step, unit) for i in places}
    return low, high, {at: s.replace(".0 %", " %").removesuffix(".00") for at, s in said.items()}


def _text(x: float, y: float, said: str, anchor: str = "end") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'
