"""A document as one HTML page that needs no other host and no script; its pictures are SVG.

The page reads well on a phone, on paper, in the dark, by keyboard and by screen reader. Its own
policy (Content-Security-Policy) allows its one style sheet by hash and nothing else. Legends stand
above the axes, so that they cover nothing.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import cache
from html import escape
from importlib.resources import files
from typing import Literal

from cascade.evaluation.render import (
    Document,
    Fact,
    Mark,
    Picture,
    Series,
    Table,
    Unit,
    interval_of,
    left_columns,
    words,
    written,
)

WIDTH, HEIGHT = 480, 370
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 24, 56, 50
_LETTER, _LINE = 7.6, 16

Span = tuple[float, float]
Scale = Callable[[float], float]
"""Maps a value to its place in the drawing."""


def to_page(document: Document) -> str:
    """The whole page."""
    style = style_sheet()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    return framed(document.title, body(document), head)


def framed(title: str, inner: str, head: str) -> str:
    """HTML with what belongs around it; `head` says how it looks."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{head}\n<title>{escape(title)}</title>\n</head>\n"
        f"<body>\n<main>\n{inner}\n</main>\n</body>\n</html>\n"
    )


@cache
def style_sheet() -> str:
    """The style sheet of all pages."""
    return files("cascade.evaluation").joinpath("page.css").read_text(encoding="utf-8")


def body(document: Document, alarm: str = "") -> str:
    """A document as HTML, with an alarm below its sentence."""
    drawn = "".join(map(to_figure, document.pictures))
    parts = [
        f"<h1>{escape(document.title)}</h1>",
        f'<p class="sentence {document.tone}">{marked(document.sentence)}</p>',
        alarm,
        f'<dl class="facts">{"".join(map(_card, document.facts))}</dl>' if document.facts else "",
        bullets(document.notes),
        f'<div class="pictures">{drawn}</div>' if drawn else "",
        *map(table, document.tables),
    ]
    return "\n".join(filter(None, parts))


def _card(fact: Fact) -> str:
    small = "; ".join(filter(None, (interval_of(fact.figure), fact.note)))
    figure = f"{escape(words(fact.figure, interval=False))}<small>{escape(small)}</small>"
    return f"<div><dt>{escape(fact.label)}</dt><dd>{figure}</dd></div>"


def bullets(notes: Iterable[str]) -> str:
    """A list of sentences."""
    items = "".join(f"<li>{marked(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""


def marked(sentence: str) -> str:
    """A sentence as HTML, with what stands between backticks as code."""
    parts = escape(sentence).split("`")
    if len(parts) % 2 == 0:
        return escape(sentence)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def table(given: Table, more: str = "", *, opened: bool = False) -> str:
    """A table under its title; a folded one may be `opened`. `more` is HTML between the two."""
    title, left = escape(given.title), left_columns(given)
    sides = [' class="left"' if i in left else "" for i in range(len(given.columns))]
    heads = "".join(
        f'<th scope="col"{side}>{escape(head)}</th>'
        for head, side in zip(given.columns, sides, strict=True)
    )
    rows = []
    for i, (name, *cells) in enumerate(given.rows):
        row = f'<th scope="row">{escape(words(name))}</th>'
        for cell, side in zip(cells, sides[1:], strict=True):
            between = interval_of(cell)
            small = f" <small>({escape(between)})</small>" if between else ""
            row += f"<td{side}>{escape(words(cell, interval=False))}{small}</td>"
        strong = ' class="strong"' if i == given.strong else ""
        rows.append(f"<tr{strong}>{row}</tr>")
    grid = (
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    notes = "".join(f'<p class="soft">{marked(note)}</p>' for note in given.notes)
    inner = f"{more}{grid if rows else ''}{notes}"
    if given.folded:
        state = " open" if opened else ""
        return f"<details{state}><summary>{title}</summary>{inner}</details>"
    return f"<section><h2>{title}</h2>{inner}</section>"


# Drawings -------------------------------------------------------------------------------------


def to_figure(picture: Picture) -> str:
    """A drawing under its title; its colours are classes of the page around it."""
    ends = span(picture, "x"), span(picture, "y")
    x, y = _scale(ends[0], (_LEFT, WIDTH - _RIGHT)), _scale(ends[1], (HEIGHT - _BOTTOM, _TOP))
    marks = [(m, x(m.x), y(m.y)) for m in picture.marks if math.isfinite(m.x + m.y)]
    drawn = [
        *_legend(picture.series),
        *_grid(picture, ends, x, y),
        *(part for series in picture.series for part in _values(series, x, y)),
        *(_circle(px, py, mark.role) for mark, px, py in marks),
        *_names(marks),
    ]
    label = escape(f"{picture.title}: {picture.y.title} by {picture.x.title}")
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    title = f"<figcaption>{escape(picture.title)}</figcaption>"
    return f"<figure>{title}<svg {box}>{''.join(drawn)}</svg></figure>"


def span(picture: Picture, way: Literal["x", "y"]) -> Span:
    """The ends of an axis: as given, else around all values with some air."""
    axis, at = (picture.x, 0) if way == "x" else (picture.y, 1)
    found = [point[at] for series in picture.series for point in series.points]
    found += [(mark.x, mark.y)[at] for mark in picture.marks]
    if way == "y":
        found += [end for series in picture.series for ends in series.ranges for end in ends]
    found = [value for value in found if math.isfinite(value)] or [0.0]
    low, high = min(found), max(found)
    air = 0.6 if axis.unit == "days" else 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    first = max(0.0, low - air) if low >= 0 else low - air
    last = min(1.02, high + air) if high <= 1 and axis.unit == "share" else high + air
    low = first if axis.low is None else axis.low
    high = last if axis.high is None else axis.high
    return (low, high) if high > low else (low, low + 1.0)


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


def tick(value: float, unit: Unit | Literal["days"]) -> str:
    """A value as it is written at an axis: shorter than in words."""
    if unit == "days":
        return f"{date.fromordinal(round(value)):%b %-d}"
    if unit == "share":
        return f"{100 * value:.4g} %".replace("-", "−")
    return written(value, unit).removesuffix(".00")


def _scale(values: Span, places: Span) -> Scale:
    slope = (places[1] - places[0]) / (values[1] - values[0])
    return lambda value: places[0] + (value - values[0]) * slope


def _legend(given: Iterable[Series]) -> Iterable[str]:
    """Names of the series beside their lines or dots, in one line above the axes."""
    at = 4.0
    for series in given:
        if series.name:
            line, dot = [(at, 12.0), (at + 22, 12.0)], [(at + 11, 12.0)]
            yield from _stroke(series, line if series.kind == "line" else dot)
            yield _text(at + 28, 16, series.name, "start", "tick")
            at += 28 + _LETTER * len(series.name) + 14


def _grid(picture: Picture, ends: tuple[Span, Span], x: Scale, y: Scale) -> Iterable[str]:
    """Lines and ticks of both axes, with their titles; of ticks below, those that have room."""
    across, (bottom, top) = f"H{WIDTH - _RIGHT}", ends[1]
    for value in ticks(ends[1], picture.y.unit):
        yield f'<path class="grid" d="M{_LEFT} {y(value):.1f}{across}"/>'
        yield _text(_LEFT - 7, y(value) + 4, tick(value, picture.y.unit), "end", "tick")
    room = -math.inf
    for value in ticks(ends[0], picture.x.unit):
        said = tick(value, picture.x.unit)
        half = _LETTER * len(said) / 2
        if x(value) - half > room:
            room = x(value) + half + _LETTER
            yield _text(x(value), HEIGHT - _BOTTOM + 18, said, "middle", "tick")
    zero = 0.0 if bottom < 0 < top else bottom
    yield f'<path class="base" d="M{_LEFT} {y(zero):.1f}{across}"/>'
    yield _text(WIDTH - _RIGHT, HEIGHT - 8, picture.x.title, "end", "tick")
    yield _text(4, _TOP - 15, picture.y.title, "start", "tick")


def _values(series: Series, x: Scale, y: Scale) -> Iterable[str]:
    for (at, _), (low, high) in zip(series.points, series.ranges, strict=False):
        if math.isfinite(at + low + high):
            yield f'<path class="range" d="M{x(at):.1f} {y(low):.1f}V{y(high):.1f}"/>'
    yield from _stroke(series, [(x(a), y(b)) for a, b in series.points if math.isfinite(a + b)])


def _stroke(series: Series, places: Sequence[tuple[float, float]]) -> Iterable[str]:
    if series.kind == "dots":
        yield from (_circle(px, py, series.role) for px, py in places)
    elif places:
        way = "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
        yield f'<path class="line {series.role}{" dashed" * series.dashed}" d="M{way}"/>'


def _names(places: Iterable[tuple[Mark, float, float]]) -> Iterable[str]:
    """Names beside their dots, from top to bottom, each at least a line below the one before."""
    ordered = sorted(places, key=lambda place: place[2])
    line, most = float(_TOP), HEIGHT - _BOTTOM - _LINE * len(ordered)
    for i, (mark, px, py) in enumerate(ordered, 1):
        line = min(max(line, py + 4), most + _LINE * i)
        fits = px + 10 + _LETTER * len(mark.name) <= WIDTH
        side, at = ("start", px + 10) if fits else ("end", px - 10)
        yield _text(at, line, mark.name, side, f"name {mark.role}")
        line += _LINE


def _circle(px: float, py: float, role: str) -> str:
    return f'<circle class="{role}" cx="{px:.1f}" cy="{py:.1f}" r="5.5"/>'


def _text(px: float, py: float, said: str, anchor: str, css: str) -> str:
    place = f'x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}"'
    return f'<text class="{css}" {place}>{escape(said)}</text>'
