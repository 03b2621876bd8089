"""A document as one HTML page that needs no other host and no script; its pictures are SVG.

The page reads well on a phone, on paper, in the dark, by keyboard and by screen reader. Its own
policy (Content-Security-Policy) allows its one style sheet by hash and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from datetime import date
from functools import cache
from html import escape
from importlib.resources import files
from itertools import chain

from cascade.evaluation.render import (
    AxisUnit,
    Cell,
    Document,
    Picture,
    Series,
    Table,
    interval_of,
    left_columns,
    words,
    written,
)

WIDTH, HEIGHT = 480, 344
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 456, 30, 294


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


def body(document: Document) -> str:
    """A document as HTML."""
    alarm = "" if document.alarms is None else '<p class="sentence good">No alarm now.</p>'
    if document.alarms:
        listed = bullets(document.alarms)
        alarm = f'<section class="sentence bad" role="alert"><h2>Wrong now</h2>{listed}</section>'
    cards = "".join(
        f"<div><dt>{escape(fact.label)}</dt><dd>{_cell(fact.figure, fact.note)}</dd></div>"
        for fact in document.facts
    )
    drawn = "".join(map(to_figure, document.pictures))
    parts = [
        f"<h1>{escape(document.title)}</h1>",
        f'<p class="sentence {document.tone}">{marked(document.sentence)}</p>',
        alarm,
        f'<dl class="facts">{cards}</dl>' if cards else "",
        bullets(document.notes),
        f'<div class="pictures">{drawn}</div>' if drawn else "",
        *map(table, document.tables),
    ]
    return "\n".join(filter(None, parts))


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
    heads = (
        f'<th scope="col"{sides[i]}>{escape(head)}</th>' for i, head in enumerate(given.columns)
    )
    rows = ""
    for i, (name, *cells) in enumerate(given.rows):
        shown = (
            f"<td{side}>{_cell(cell)}</td>" for side, cell in zip(sides[1:], cells, strict=True)
        )
        strong = ' class="strong"' if i == given.strong else ""
        rows += f'<tr{strong}><th scope="row">{escape(words(name))}</th>{"".join(shown)}</tr>'
    grid = (
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}"><table><thead><tr>'
        f"{''.join(heads)}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    notes = "".join(f'<p class="soft">{marked(note)}</p>' for note in given.notes)
    inner = f"{more}{grid if rows else ''}{notes}"
    if given.folded:
        return f"<details{' open' * opened}><summary>{title}</summary>{inner}</details>"
    return f"<section><h2>{title}</h2>{inner}</section>"


def _cell(cell: Cell, note: str = "") -> str:
    between = interval_of(cell)
    small = f"({between}) {note}" if between else note
    shown = escape(words(cell, interval=False))
    return f"{shown} <small>{escape(small.rstrip())}</small>" if small else shown


# Drawings -------------------------------------------------------------------------------------


def to_figure(picture: Picture) -> str:
    """A drawing under its title and legend; its colours are classes of the page around it."""
    across, up = [], []
    for series in picture.series:
        across += [x for x, _ in series.points]
        up += [*(y for _, y in series.points), *chain.from_iterable(series.ranges)]
    (left, right), (bottom, top) = span(across, picture.x.unit), span(up, picture.y.unit)

    def x(value: float) -> float:
        return _LEFT + (value - left) / (right - left) * (_RIGHT - _LEFT)

    def y(value: float) -> float:
        return _BOTTOM + (value - bottom) / (top - bottom) * (_TOP - _BOTTOM)

    drawn = [
        _text(_RIGHT, HEIGHT - 8, picture.x.title),
        _text(4, _TOP - 15, picture.y.title, "start"),
    ]
    for value, said in ticks(bottom, top, picture.y.unit):
        drawn.append(f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_RIGHT}"/>')
        drawn.append(_text(_LEFT - 7, y(value) + 4, said))
    for value, said in ticks(left, right, picture.x.unit):
        drawn.append(_text(x(value), _BOTTOM + 18, said, "middle"))
    zero = y(0.0 if bottom < 0 < top else bottom)
    drawn.append(f'<path class="base" d="M{_LEFT} {zero:.1f}H{_RIGHT}"/>')
    legend = ""
    for series in picture.series:
        for (at, _), (low, high) in zip(series.points, series.ranges, strict=False):
            if math.isfinite(at + low + high):
                drawn.append(f'<path class="range" d="M{x(at):.1f} {y(low):.1f}V{y(high):.1f}"/>')
        drawn.append(_stroke(series, [(x(a), y(b)) for a, b in series.points]))
        key = _stroke(series, [(1, 6), (21, 6)] if series.kind == "line" else [(11, 6)])
        legend += f'<span><svg viewBox="0 0 22 12">{key}</svg>{escape(series.name)}</span> '
    label = escape(f"{picture.title}: {picture.y.title} by {picture.x.title}")
    return (
        f'<figure><figcaption>{escape(picture.title)}</figcaption><p class="legend">{legend}</p>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(drawn)}'
        "</svg></figure>"
    )


def span(values: Iterable[float], unit: AxisUnit) -> tuple[float, float]:
    """The ends of an axis: around all values with some air."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    air = 0.6 if unit == "days" else 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    first = max(0.0, low - air) if low >= 0 else low - air
    return first, min(1.02, high + air) if high <= 1 and unit == "share" else high + air


def ticks(low: float, high: float, unit: AxisUnit) -> Iterable[tuple[float, str]]:
    """Round numbers between two values, seven at most, or days, with how they are written: shorter
    than in words."""
    rough = (high - low) / 6
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * (1 - 1e-9))
    step = max(step, 1.0) if unit == "days" else step
    for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        if unit == "days":
            yield i * step, f"{date.fromordinal(round(i * step)):%b %-d}"
        elif unit == "share":
            yield i * step, f"{100 * i * step:.4g} %".replace("-", "−")
        else:
            yield i * step, written(i * step, unit).removesuffix(".00")


def _stroke(series: Series, points: Iterable[tuple[float, float]]) -> str:
    places = [(f"{x:.1f}", f"{y:.1f}") for x, y in points if math.isfinite(x + y)]
    if series.kind == "dots":
        dot = f'<circle class="{series.role}" r="5.5"'
        return "".join(f'{dot} cx="{x}" cy="{y}"/>' for x, y in places)
    way = "L".join(map(" ".join, places))
    return f'<path class="line {series.role}" d="M{way}"/>' if places else ""


def _text(x: float, y: float, said: str, anchor: str = "end") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'
