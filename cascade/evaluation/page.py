"""A document as one HTML page that needs no other host and no script.

It reads well on a phone, on paper, in the dark, by keyboard and by screen reader. Its own policy
(Content-Security-Policy) allows its one style sheet by hash and nothing else. Legends stand above
pictures, so that they cover nothing.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from html import escape
from importlib.resources import files
from itertools import pairwise

from cascade.evaluation.render import (
    Axis,
    Cell,
    Document,
    Figure,
    Mark,
    Picture,
    Series,
    Table,
    dollars,
    number,
    seconds,
    words,
)

WIDTH, HEIGHT = 480, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 24, 26, 50
_LETTER, _LINE, _DOT = 7.6, 16, 5.5
_STRONG = ' class="strong"'

Place = tuple[float, float]
Span = tuple[float, float]


def to_page(document: Document) -> str:
    """The whole page."""
    parts = [
        f"<h1>{escape(document.title)}</h1>",
        f'<p class="sentence {document.tone}">{_marked(document.sentence)}</p>'
        if document.sentence
        else "",
        _facts(document),
        _list(document.notes),
        _pictures(document.pictures),
        *(_table(table) for table in document.tables),
    ]
    style, policy = _style()
    return _FRAME.format(
        policy=policy,
        title=escape(document.title),
        style=style,
        body="\n".join(part for part in parts if part),
    )


def to_svg(picture: Picture) -> str:
    """The drawing alone, without its legend; its colours are classes of the page around it."""
    x_span, y_span = span(picture, "x"), span(picture, "y")
    x = _Scale(x_span, (_LEFT, WIDTH - _RIGHT))
    y = _Scale(y_span, (HEIGHT - _BOTTOM, _TOP))
    bars = [series for series in picture.series if series.kind == "bars"]
    places = [(mark, x(mark.x), y(mark.y)) for mark in picture.marks if _finite(mark.x, mark.y)]
    parts = [
        *_grid(picture, x, y),
        *(bar for i, each in enumerate(bars) for bar in _bars(each, x, y, i, len(bars))),
        *(part for each in picture.series if each.kind != "bars" for part in _series(each, x, y)),
        *(_circle(px, py, mark.role) for mark, px, py in places),
        *_names(places),
    ]
    label = escape(f"{picture.title}: {picture.y.title} by {picture.x.title}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


# Parts of the page ----------------------------------------------------------------------------


def _facts(document: Document) -> str:
    cards = "".join(
        f"<div><dt>{escape(fact.label)}</dt>"
        f"<dd>{escape(words(fact.figure, interval=False))}"
        f"<small>{escape(_between(fact.figure, fact.note))}</small></dd></div>"
        for fact in document.facts
    )
    return f'<dl class="facts">{cards}</dl>' if cards else ""


def _between(figure: Figure | str, note: str) -> str:
    """The interval of a figure, then its note."""
    said = words(figure)
    value = words(figure, interval=False)
    interval = said.removeprefix(value).strip(" ()") if isinstance(figure, Figure) else ""
    return "; ".join(part for part in (interval, note) if part)


def _list(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{_marked(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""


def _table(table: Table) -> str:
    title = escape(table.title)
    inner = _grid_of(table) if table.rows else ""
    notes = "".join(_note(note) for note in table.notes)
    if table.folded:
        return f"<details><summary>{title}</summary>{inner}{notes}</details>"
    return f"<section><h2>{title}</h2>{inner}{notes}</section>"


def _grid_of(table: Table) -> str:
    left = [
        i == 0 or all(isinstance(row[i], str) for row in table.rows)
        for i in range(len(table.columns))
    ]
    heads = "".join(
        f'<th scope="col"{_left(to_left)}>{escape(head)}</th>'
        for head, to_left in zip(table.columns, left, strict=True)
    )
    rows = "".join(
        f"<tr{_STRONG if i == table.strong else ''}>{_cells(row, left)}</tr>"
        for i, row in enumerate(table.rows)
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(table.title)}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cells(row: Sequence[Cell], left: Sequence[bool]) -> str:
    first = f'<th scope="row">{escape(words(row[0]))}</th>'
    rest = zip(row[1:], left[1:], strict=True)
    return first + "".join(f"<td{_left(to_left)}>{_cell(cell)}</td>" for cell, to_left in rest)


def _cell(cell: Cell) -> str:
    value, said = words(cell, interval=False), words(cell)
    interval = said.removeprefix(value).strip()
    small = f" <small>{escape(interval)}</small>" if interval else ""
    return f"{escape(value)}{small}"


def _note(note: str) -> str:
    return f'<p class="soft">{_marked(note)}</p>' if note else ""


def _left(to_left: bool) -> str:
    return ' class="left"' if to_left else ""


def _pictures(pictures: Sequence[Picture]) -> str:
    drawn = "".join(
        f"<figure><figcaption>{escape(picture.title)}</figcaption>{_legend(picture)}"
        f"{to_svg(picture)}{_note(picture.note)}</figure>"
        for picture in pictures
    )
    return f'<div class="pictures">{drawn}</div>' if drawn else ""


def _legend(picture: Picture) -> str:
    items = "".join(
        f'<li class="{series.kind} {series.role}{" dashed" * series.dashed}">'
        f"{escape(series.name)}</li>"
        for series in picture.series
        if series.name
    )
    return f'<ul class="legend">{items}</ul>' if items else ""


def _marked(sentence: str) -> str:
    """Escaped, with what stands between backticks as code."""
    parts = escape(sentence).split("`")
    if len(parts) % 2 == 0:
        return escape(sentence)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


# Axes -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps values to places in the drawing."""

    values: Span
    places: Span

    def __call__(self, value: float) -> float:
        low, high = self.values
        start, end = self.places
        return start + (value - low) / (high - low) * (end - start)


def span(picture: Picture, way: str) -> Span:
    """The ends of an axis (`x` or `y`): as given, else around all values with some air."""
    axis = picture.x if way == "x" else picture.y
    at = 0 if way == "x" else 1
    found = [point[at] for series in picture.series for point in series.points]
    found += [mark.x if way == "x" else mark.y for mark in picture.marks]
    if way == "y":
        found += [end for series in picture.series for ends in series.ranges for end in ends]
    has_bars = any(series.kind == "bars" for series in picture.series)
    found = [value for value in found if math.isfinite(value)] or [0.0]
    if has_bars and way == "y":
        found.append(0.0)
    low, high = min(found), max(found)
    air = 0.6 if axis.unit == "days" else 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    if has_bars and way == "x":
        air = max(air, 0.6 * _gap(found))
    first, last = low - air, high + air
    if low >= 0 and axis.unit != "days":
        first = max(0.0, first)
    if high <= 1 and axis.unit == "share":
        last = min(1.0, last) if way == "x" or high < 1 else 1.02
    low = first if axis.low is None else axis.low
    high = last if axis.high is None else axis.high
    return (low, high) if high > low else (low, low + 1.0)


def _gap(values: Iterable[float]) -> float:
    ordered = sorted(set(values))
    return min((b - a for a, b in pairwise(ordered)), default=1.0)


def ticks(ends: Span, unit: str) -> list[float]:
    """Round numbers between two values, about five of them; whole days, days."""
    low, high = ends
    rough = (high - low) / 5
    if unit == "days":
        days = next((n for n in (1, 2, 7, 14, 28, 91, 182) if n >= rough), math.ceil(rough))
        return [float(day) for day in range(math.ceil(low), math.floor(high) + 1, days)]
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _tick(value: float, axis: Axis) -> str:
    return tick(value, axis.unit)


def tick(value: float, unit: str) -> str:
    """A value as it is written at an axis: shorter than in words."""
    if not math.isfinite(value):
        return "?"
    if unit == "days":
        return f"{date.fromordinal(round(value)):%b %-d}"
    if unit in ("share", "points"):
        said = f"{100 * value:.4g}".replace("-", "−")
        return f"{said} %" if unit == "share" else said
    if unit == "usd":
        return dollars(value).removesuffix(".00")
    if unit == "seconds":
        return seconds(value)
    return number(value)


def _grid(picture: Picture, x: _Scale, y: _Scale) -> Iterable[str]:
    for value in ticks(y.values, picture.y.unit):
        yield f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{WIDTH - _RIGHT}"/>'
        yield _text(_LEFT - 7, y(value) + 4, _tick(value, picture.y), "end", "tick")
    room = -math.inf
    for value in ticks(x.values, picture.x.unit):
        said = _tick(value, picture.x)
        half = _LETTER * len(said) / 2
        if x(value) - half > room:
            room = x(value) + half + _LETTER
            yield _text(x(value), HEIGHT - _BOTTOM + 18, said, "middle", "tick")
    zero = 0.0 if y.values[0] < 0 < y.values[1] else y.values[0]
    yield f'<path class="base" d="M{_LEFT} {y(zero):.1f}H{WIDTH - _RIGHT}"/>'
    yield _text(WIDTH - _RIGHT, HEIGHT - 8, picture.x.title, "end", "tick")
    yield _text(4, 11, picture.y.title, "start", "tick")


# Marks ----------------------------------------------------------------------------------------


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)


def _series(series: Series, x: _Scale, y: _Scale) -> Iterable[str]:
    for (at, _), (low, high) in zip(series.points, series.ranges, strict=False):
        if _finite(at, low, high):
            yield f'<path class="range" d="M{x(at):.1f} {y(low):.1f}V{y(high):.1f}"/>'
    places = [(x(px), y(py)) for px, py in series.points if _finite(px, py)]
    if series.kind == "dots":
        yield from (_circle(px, py, series.role) for px, py in places)
    elif places:
        way = "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
        yield f'<path class="line {series.role}{" dashed" * series.dashed}" d="M{way}"/>'


def _bars(series: Series, x: _Scale, y: _Scale, place: int, count: int) -> Iterable[str]:
    """Bars from 0; those of several series stand side by side."""
    gap = _gap(px for px, _ in series.points)
    wide = max(1.5, 0.76 * abs(x(gap) - x(0.0)) / count)
    zero = y(min(max(0.0, y.values[0]), y.values[1]))
    for px, py in series.points:
        if _finite(px, py) and py:
            left = x(px) + (place - count / 2) * wide
            top, tall = min(y(py), zero), abs(y(py) - zero)
            yield (
                f'<rect class="{series.role}" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" '
                f'height="{tall:.1f}"/>'
            )


def _circle(px: float, py: float, role: str) -> str:
    return f'<circle class="{role}" cx="{px:.1f}" cy="{py:.1f}" r="{_DOT}"/>'


def _names(places: Sequence[tuple[Mark, float, float]]) -> Iterable[str]:
    """Names beside their dots, none on top of another, of a dot, or beyond the edge."""
    taken = [(px - _DOT, px + _DOT, py + 4) for _, px, py in places]
    for mark, px, py in places:
        wide = _LETTER * len(mark.name)
        sides = [("start", px + 10, px + 10), ("end", px - 10, px - 10 - wide)]
        if px + 10 + wide > WIDTH:
            sides.reverse()
        shifts = sorted((n * _LINE // 2 for n in range(-42, 43)), key=abs)
        options = [
            (anchor, at, left, py + 4 + shift) for shift in shifts for anchor, at, left in sides
        ]
        anchor, at, left, line = next(
            (
                option
                for option in options
                if option[2] >= 0
                and option[2] + wide <= WIDTH
                and _TOP < option[3] < HEIGHT - _BOTTOM
                and not any(
                    abs(option[3] - other) < _LINE and option[2] < end and begin < option[2] + wide
                    for begin, end, other in taken
                )
            ),
            options[0],
        )
        taken.append((left, left + wide, line))
        yield _text(at, line, mark.name, anchor, f"name {mark.role}")


def _text(px: float, py: float, said: str, anchor: str, css: str) -> str:
    return (
        f'<text class="{css}" x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">'
        f"{escape(said)}</text>"
    )


# Frame ----------------------------------------------------------------------------------------


@cache
def _style() -> tuple[str, str]:
    """The style sheet, and the policy that allows it alone."""
    style = files("cascade.evaluation").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return style, policy


_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
