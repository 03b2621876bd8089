"""A report as one page, for a screen, a phone, or paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from html import escape

from cascade._page import card, document, grid
from cascade._words import dollars, percent
from cascade.evaluation.drawing import Axis, Series, around, chart
from cascade.report.outages import trouble
from cascade.report.records import Figures
from cascade.report.said import sayings
from cascade.report.text import (
    HEADS,
    cells,
    claim,
    minute,
    period,
    qualities,
    quality_claim,
    savings,
    verdict_line,
)

STYLE = """
.chart path.range { stroke: var(--soft); stroke-width: 1.3; fill: none; }
.chart path.dot { stroke: var(--cascade); stroke-width: 6; stroke-linecap: round; fill: none; }
main { max-width: 1060px; }
td:last-child { white-space: normal; }
.big { font-size: 1.15rem; font-weight: 600; }
table { margin-bottom: 1.4em; }
"""

Place = tuple[float, float]


def to_page(found: Figures) -> str:
    """The whole page."""
    sections = (_head, _cards, _pictures, _money, _tables, _days, _open, _method)
    title = f"Cascade report, {_dates(found)}" if found.first else "Cascade report"
    return document(title, "\n".join(section(found) for section in sections), STYLE)


def _dates(found: Figures) -> str:
    begins, ends = found.since or found.first, found.until or found.last
    return f"{begins:%Y-%m-%d} to {ends:%Y-%m-%d}"


def _head(found: Figures) -> str:
    css = "verdict off" if found.verdict == "loses" else "verdict"
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in found.remarks)
    return f"""<h1>What the cascade saved</h1>
<p class="lead">{escape(period(found))}</p>
<div class="{css}"><p class="big">{escape(verdict_line(found))}</p>
<p>{escape(claim(found))}</p><p>{escape(quality_claim(found))}</p><p>{escape(found.advice)}</p></div>
<ul>{remarks}</ul>"""


def _cards(found: Figures) -> str:
    saving, share = found.saving.saving, found.saving.share
    between = f"{dollars(saving.low)} to {dollars(saving.high)}"
    verified = found.verified_usd is not None
    cards = [
        card(
            "verified net saving" if verified else "net saving, not verified",
            dollars(found.verified_usd) if verified else dollars(saving.value),
            "lower end of the 95 % interval" if verified else f"assumed limits {between}",
            css="card main",
        ),
        card(
            "of the large-only bill",
            percent(share.low if verified else share.value),
            f"best guess {percent(share.value)}; saving {between}",
        ),
    ]
    if found.quality is not None and found.requests:
        loss, errors = found.quality.loss, found.quality.error_rate
        cards += [
            card("quality lost, at most", percent(loss.high, 2), "per request, 95 %"),
            card(
                "wrong among accepted, at most", percent(errors.high), f"{errors.audits:,} audits"
            ),
        ]
    if found.escalation is not None:
        up = found.escalation
        cards.append(
            card("escalated", percent(up.value), f"{percent(up.low)} to {percent(up.high)}")
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _pictures(found: Figures) -> str:
    drawn = [*_per_day(found)]
    if found.reliability:
        drawn.append(_reliability(found))
    if not drawn:
        return ""
    plots = "".join(
        f'<div class="plot"><b>{escape(name)}</b>{drawing}</div>' for name, drawing in drawn
    )
    return f'<div class="plots" style="margin-top:28px">{plots}</div>'


def _per_day(found: Figures) -> Iterable[tuple[str, str]]:
    if not found.days:
        return
    first = date.fromisoformat(found.days[0].day)
    at = [float((date.fromisoformat(day.day) - first).days) for day in found.days]
    axis = Axis(f"days since {first}", -0.5, max(at) + 0.5)
    spans = [
        (x, d.saving.low, d.saving.value, d.saving.high)
        for x, d in zip(at, found.days, strict=True)
    ]
    lines = [*_spans(spans)]
    low = min(0.0, *(span[1] for span in spans))
    high = max(0.0, *(span[3] for span in spans))
    air = 0.06 * (high - low) or 1.0
    money = Axis("dollars saved, 95 %", low - air, high + air)
    yield "Saving per day", chart(axis, money, lines, label="Saving per day with its interval")
    rates = [
        (x, 100 * d.escalation.low, 100 * d.escalation.value, 100 * d.escalation.high)
        for x, d in zip(at, found.days, strict=True)
        if d.escalation is not None
    ]
    if rates:
        limits = around([end for _, below, _, above in rates for end in (below, above)])
        up = Axis("escalated, %", *limits)
        label = "Escalated requests per day with their interval"
        yield "Escalation per day", chart(axis, up, [*_spans(rates)], label=label)


def _spans(spans: Iterable[tuple[float, float, float, float]]) -> Iterable[Series]:
    """A dot with the line of its interval: (x, low, value, high) of each."""
    for x, low, value, high in spans:
        yield Series("range", [(x, low), (x, high)])
        yield Series("dot", [(x, value), (x, value)])


def _reliability(found: Figures) -> tuple[str, str]:
    places: list[Place] = [(100 * g.confidence, 100 * g.correct.value) for g in found.reliability]
    spans = [
        (100 * g.confidence, 100 * g.correct.low, 100 * g.correct.value, 100 * g.correct.high)
        for g in found.reliability
    ]
    low, high = around([end for x, *ends in spans for end in (x, *ends)])
    drawn = chart(
        Axis("confidence, %", low, high),
        Axis("right, %", low, high + 0.06 * (high - low)),
        [Series("mix", [(low, low), (high, high)]), Series("curve", places), *_spans(spans)],
        label="Confidence against correctness of audited drafts",
    )
    return "Confidence and correctness", drawn


def _money(found: Figures) -> str:
    heads = ("", "value", "low", "high", "")
    quality = qualities(found)
    answers = f"<h2>Answers</h2>{grid(heads, quality)}" if quality else ""
    return f"<h2>Money</h2>{grid(heads, savings(found))}{answers}"


def _tables(found: Figures) -> str:
    return "\n".join(
        f"<h2>By {escape(table.by)}</h2>"
        + grid(("", *HEADS), [cells(line) for line in (*table.lines, found.total)], strong=-1)
        for table in found.tables
        if table.lines
    )


def _days(found: Figures) -> str:
    rows = [
        (
            day.day,
            f"{day.requests:,}",
            "–" if day.escalation is None else percent(day.escalation.value),
            dollars(day.saving.value),
            dollars(day.saving.low),
            dollars(day.saving.high),
            f"{day.saving.audits:,}",
        )
        for day in found.days
    ]
    heads = ("day, UTC", "requests", "escalated", "saving", "low", "high", "audits")
    return f"<h2>Each day with its interval</h2>{grid(heads, rows)}" if rows else ""


def _open(found: Figures) -> str:
    """What is not known, where the prices came from, and what happened."""
    unknown = [
        (u.node, u.model, u.reason, f"{u.entries:,}", dollars(u.assumed_usd), f"{u.unpriced:,}")
        for u in found.unknown
    ]
    lost = [(minute(c.begun_at), c.node, c.model or "", c.run_id) for c in found.unfinished]
    prices = [(p.model, p.price, f"{p.calls:,}") for p in found.prices]
    events = [(minute(e.at), e.node, e.text) for e in found.events]
    troubles = [(sentence,) for sentence in trouble(found)]
    parts = (
        ("What users said", ("",), [(sentence,) for sentence in sayings(found)]),
        ("Outages and pressure", ("",), troubles),
        ("Unknown costs", ("node", "model", "why", "calls", "assumed", "nothing assumed"), unknown),
        ("Calls of unknown outcome", ("begun, UTC", "node", "model", "run"), lost),
        ("Where prices came from", ("model", "price", "calls"), prices),
        ("Events", ("at, UTC", "what", ""), events),
    )
    return "\n".join(_part(title, heads, rows) for title, heads, rows in parts if rows)


def _part(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"<h2>{title}</h2>{grid(heads, rows)}"


def _method(found: Figures) -> str:
    s = found.saving.saving
    how = f"{s.method}; {s.note}" if s.note else s.method
    return f"""<h2>How this was measured</h2>
<p class="soft">Every figure is a sum over ledger entries, except what accepted drafts would have
cost with the large model: that is estimated from random audits, each drawn with a probability
that was written down before the draw ({escape(how)}). The verified figure is the lower end of a
95 % interval. Quality is measured against the large model's answers, which are a reference and
not the truth. Days are in UTC, by the beginning of a request.</p>"""
