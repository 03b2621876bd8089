"""A report in words and tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from cascade._words import counted, dollars, percent, printable, table
from cascade.evaluation.audit.estimates import NO_AUDITS, Estimate
from cascade.report.outages import trouble
from cascade.report.records import Figures, Line, Rate
from cascade.report.said import sayings

HEADS = (
    "entries",
    "requests",
    "cost",
    "assumed",
    "marginal",
    "saved, measured",
    "saved, estimated",
    "tokens in",
    "tokens out",
)
BARS = 20
LATEST_DAYS, LONGEST_LIST = 31, 20
"""A terminal shows so many days and items; the page and JSON have all."""


def render(found: Figures) -> str:
    """The whole report."""
    parts = [
        f"{verdict_line(found)}\n{found.advice}",
        headline(found),
        "\n".join(f"- {remark}" for remark in found.remarks),
        _savings(found),
        _quality(found),
        *(_table(found, part.by, part.lines) for part in found.tables),
        _days(found),
        _reliability(found),
        _listed("What users said", sayings(found)),
        _listed("Outages and pressure", trouble(found)),
        _unknown(found),
        _unfinished(found),
        _listed("Prices", (f"{p.model}: {p.price} ({p.calls:,} calls)" for p in found.prices)),
        _listed(
            "Events",
            (f"{minute(e.at)}  {e.node}: {e.text}" for e in found.events),
            newest=True,
        ),
    ]
    return printable("\n\n".join(part for part in parts if part))


def verdict_line(found: Figures) -> str:
    """The verdict and its reason."""
    words = {"loses": "loses: switch it off"}.get(found.verdict, found.verdict)
    return f"Verdict: {words}; {found.reason}."


def headline(found: Figures) -> str:
    """What may be claimed, with the quality beside it."""
    lines = [claim(found), quality_claim(found), period(found)]
    return "\n".join(line for line in lines if line)


def claim(found: Figures) -> str:
    """The verified net saving, or why there is none."""
    if found.verified_usd is not None and found.verified_share is not None:
        amount = f"{dollars(found.verified_usd)}, {percent(found.verified_share)}"
        if found.status == "measured":
            return f"Net saving, measured: {amount} of the large-only bill."
        return f"Verified net saving: {amount} of the large-only bill, or more (95 % interval)."
    if found.status == "empty":
        return "No requests."
    saving = found.saving.saving
    between = f"between {dollars(saving.low)} and {dollars(saving.high)}"
    if found.status == "unknown":
        return (
            f"No verified saving: {found.total.unpriced:,} calls have an unknown cost. Without "
            f"what they cost the saving is {between}."
        )
    return f"{NO_AUDITS.capitalize()}: a saving {between}, by assumption."


def quality_claim(found: Figures) -> str:
    """The upper bounds of what is lost in quality."""
    if found.quality is None or not found.requests:
        return ""
    loss, errors = found.quality.loss, found.quality.error_rate
    if not loss.audits and loss.basis != "measured":
        return "Quality: nothing is known before an accepted draft has been audited."
    return (
        f"Quality: at most {percent(loss.high, 2)} lost per request, at most "
        f"{percent(errors.high)} of the accepted drafts wrong ({counted(loss.audits, 'audit')})."
    )


def period(found: Figures) -> str:
    """Requests, audits and period in one line."""
    begins, ends = found.since or found.first, found.until or found.last
    tags = ", ".join(f"{key}={value}" for key, value in found.tags.items())
    when = f"{minute(begins)} to {minute(ends)} UTC" if begins and ends else ""
    counts = ", ".join(f"{n:,} {name}" for name, n in found.outcomes.items())
    parts = [counted(found.requests, "request"), counts, counted(found.audits, "audit"), when, tags]
    return "; ".join(part for part in parts if part) + "."


def minute(at: datetime) -> str:
    """A time to the minute."""
    return f"{at:%Y-%m-%d %H:%M}"


def money(figure: Estimate) -> tuple[str, str, str]:
    """Dollars with their interval."""
    return dollars(figure.value), dollars(figure.low), dollars(figure.high)


def share(figure: Estimate | Rate, digits: int = 1) -> tuple[str, str, str]:
    """A percentage with its interval."""
    values = (figure.value, figure.low, figure.high)
    first, second, third = (percent(value, digits) for value in values)
    return first, second, third


def savings(found: Figures) -> list[tuple[str, ...]]:
    """Rows of money: name, value, low, high, how."""
    s, total = found.saving, found.total
    how = "; ".join(part for part in (s.saving.method, s.saving.note) if part)
    return [
        ("large model alone", *money(s.baseline), s.baseline.basis),
        ("spent", dollars(total.cost_usd), "", "", "known costs"),
        ("spent, assumed", dollars(total.assumed_usd), "", "", f"{total.unknown:,} unknown costs"),
        ("of all spent, marginal", dollars(total.marginal_usd), "", "", "without the hardware"),
        ("saved, measured part", dollars(s.measured_usd), "", "", "escalated and audited"),
        ("saved, estimated part", dollars(s.estimated_usd), "", "", "accepted, not audited"),
        ("net saving", *money(s.saving), how),
        ("as a share", *share(s.share), "of the large-only bill"),
    ]


def _savings(found: Figures) -> str:
    if not found.requests:
        return ""
    return table(("", "value", "low", "high", ""), _left_last(savings(found)))


def qualities(found: Figures) -> list[tuple[str, ...]]:
    """Rows of shares: name, value, low, high, how."""
    rows: list[tuple[str, ...]] = []
    if found.quality is not None and found.requests:
        for name, figure, digits in (
            ("quality loss per request", found.quality.loss, 2),
            ("wrong among accepted", found.quality.error_rate, 1),
        ):
            rows.append((name, *share(figure, digits), figure.method))
    if found.escalation is not None:
        rows.append(("escalated", *share(found.escalation), f"of {found.escalation.n:,} decided"))
    return rows


def _quality(found: Figures) -> str:
    rows = qualities(found)
    return table(("", "value", "low", "high", ""), _left_last(rows)) if rows else ""


def _left_last(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The last column is of words and stands to the left."""
    wide = max(len(row[-1]) for row in rows)
    return [(*row[:-1], row[-1].ljust(wide)) for row in rows]


def cells(line: Line) -> tuple[str, ...]:
    """A line of a table; `+?` behind a figure of which a part is unknown."""
    open_end = "+?" if line.unpriced else ""
    tokens = "+?" if line.no_tokens else ""
    name = line.name if line.agent is None else f"{line.agent or '–'}: {line.name}"
    return (
        name or "–",
        f"{line.entries:,}",
        "" if line.requests is None else f"{line.requests:,}",
        f"{dollars(line.cost_usd)}{open_end}",
        dollars(line.assumed_usd) if line.unknown else "",
        f"{dollars(line.marginal_usd)}{open_end}",
        dollars(line.saved_measured_usd),
        dollars(line.saved_estimated_usd),
        f"{line.input_tokens:,}{tokens}",
        f"{line.output_tokens:,}{tokens}",
    )


def _table(found: Figures, by: str, lines: Sequence[Line]) -> str:
    if not lines:
        return ""
    rows = [cells(line) for line in lines]
    shown = _latest(rows) if by == "day" else rows
    return table((f"by {by}", *HEADS), [*shown, cells(found.total)])


def _latest(rows: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
    """The last month of days."""
    earlier = len(rows) - LATEST_DAYS
    if earlier <= 0:
        return rows
    return [(f"({earlier:,} earlier)", *("" for _ in rows[0][1:])), *rows[earlier:]]


def _days(found: Figures) -> str:
    if not found.days:
        return ""
    rows = [
        (
            day.day,
            f"{day.requests:,}",
            *(("–", "", "") if day.escalation is None else share(day.escalation)),
            *money(day.saving),
            f"{day.saving.audits:,}",
        )
        for day in found.days
    ]
    heads = ("day, UTC", "requests", "escalated", "low", "high", "saving", "low", "high", "audits")
    return table(heads, _latest(rows))


def _reliability(found: Figures) -> str:
    if not found.reliability:
        return ""
    rows = [
        (
            f"{group.confidence:.2f}",
            *share(group.correct),
            f"{group.correct.n:,}",
            ("█" * round(BARS * group.correct.value)).ljust(BARS),
        )
        for group in found.reliability
    ]
    heads = ("confidence", "right", "low", "high", "audits", "")
    return f"Confidence and correctness of audited drafts\n{table(heads, rows)}"


def _unknown(found: Figures) -> str:
    return _listed(
        "Unknown costs",
        (
            f"{item.entries:,} × {item.node} {item.model}: {item.reason}; "
            + (f"{dollars(item.assumed_usd)} assumed" if item.assumed_usd else "nothing assumed")
            for item in found.unknown
        ),
    )


def _unfinished(found: Figures) -> str:
    return _listed(
        "Unknown outcome",
        (
            f"{minute(call.begun_at)}  {call.node} {call.model or call.tier or ''}, "
            f"run {call.run_id}"
            for call in found.unfinished
        ),
        newest=True,
    )


def _listed(title: str, items: Iterable[str], *, newest: bool = False) -> str:
    """So many items of a list, which is ordered by weight, or by time with the newest last."""
    lines = [f"- {item}" for item in items]
    more = len(lines) - LONGEST_LIST
    if more > 0 and newest:
        lines = [f"- ({more:,} before these)", *lines[more:]]
    elif more > 0:
        lines = [*lines[:LONGEST_LIST], f"- ({more:,} more)"]
    return "\n".join([title, *lines]) if lines else ""
