"""What `cascade teach` says in a terminal, and the weekly report as a page."""

from __future__ import annotations

from collections.abc import Iterator

from cascade._page import card, document, grid
from cascade._words import counted, dollars, percent, table
from cascade.evaluation.metrics import Interval
from cascade.teaching.clusters import Cluster, Clusters
from cascade.teaching.comparing import Comparison
from cascade.teaching.status import Accepted, Status

HEADS = ("questions like", "task", "escalated", "cost", "saves at most", "expected", "may train")
UPPER = (
    "“Saves at most” is what the large model's answers cost: all of it, if every draft were right "
    "and accepted. “Expected” is by the measured gain of examples from the memory, its lower end "
    "after the slash; “–” where nothing was measured. “May train” counts lessons by the terms that "
    "they were given under."
)


def clusters_text(found: Clusters, most: int = 20) -> str:
    """The weekly report for a terminal, the dearest clusters first."""
    lines = [
        f"{found.since:%Y-%m-%d} to {found.until:%Y-%m-%d}: {counted(found.requests, 'request')}, "
        f"{found.escalated:,} escalated for {dollars(found.escalated_usd)}",
        *_remarks(found),
    ]
    if found.clusters:
        lines += ["", table(HEADS, [_cells(one) for one in found.clusters[:most]]), "", UPPER]
    left = len(found.clusters) - most
    if left > 0:
        lines.append(f"{counted(left, 'more cluster')} in --json.")
    return "\n".join(lines)


def clusters_page(found: Clusters) -> str:
    """The weekly report as a page that asks no other host for anything."""
    share = found.escalated / found.requests if found.requests else 0.0
    cards = "".join(
        [
            card("requests", f"{found.requests:,}", "in the ledger"),
            card("escalated", f"{found.escalated:,}", percent(share)),
            card("they cost", dollars(found.escalated_usd), "; ".join(_remarks(found))),
        ]
    )
    title = f"What escalates, {found.since:%Y-%m-%d} to {found.until:%Y-%m-%d}"
    rows = grid(HEADS, [_cells(one) for one in found.clusters])
    return document(title, f"<h1>{title}</h1>{cards}{rows}<p>{UPPER}</p>")


def _remarks(found: Clusters) -> Iterator[str]:
    if found.unpriced:
        yield f"{found.unpriced:,} of these of unknown cost"
    unknown = found.escalated - found.with_lesson
    if unknown > 0:
        yield f"{unknown:,} escalated without a lesson: their questions are not known"


def _cells(one: Cluster) -> tuple[str, ...]:
    expected = "–"
    if one.expected_usd is not None:
        expected = f"{dollars(one.expected_usd)} / {dollars(one.expected_low_usd)}"
    cost = dollars(one.cost_usd) + (f" + {one.unpriced} unknown" if one.unpriced else "")
    name = " ".join(one.name.split())
    return (
        name,
        one.task,
        f"{one.escalated:,}",
        cost,
        dollars(one.most_usd),
        expected,
        f"{one.may_train:,}",
    )


def comparison_text(found: Comparison, old: str, new: str) -> str:
    """Whether to switch, and on which figures."""
    more = f"; about {found.more:,} more questions would tell" if found.more else ""
    how = (
        f"accepted at a probability of {found.threshold:g}, fitted anew for each model"
        if found.way == "recalibrated"
        else f"accepted at a raw score of {found.threshold:g}"
    )
    money = found.unit == "dollars"
    rows = [
        ("drafts right", *_row(found, "accuracy", money=False)),
        ("escalated", *_row(found, "escalated", money=False)),
        ("answers right", *_row(found, "quality", money=False)),
        (f"saved per request, {found.unit}", *_row(found, "saving", money=money)),
    ]
    lines = [
        f"{found.verdict}: {found.reason}{more}",
        f"{counted(found.n, 'question')}, which say as much as {found.effective:.0f}; {how}",
        "",
        table(("", old, new, "new less old", "95 %"), rows),
    ]
    if not found.represents:
        lines += ["", "Escalated questions are a selected sample: no figure is of all requests."]
    return "\n".join(lines)


def _row(found: Comparison, name: str, *, money: bool) -> tuple[str, str, str, str]:
    old, new, change = (getattr(m, name) for m in (found.old, found.new, found.difference))
    interval: Interval = change
    show = dollars if money else percent
    return (
        show(old.value),
        f"{show(new.value)} [{show(new.low)}, {show(new.high)}]",
        show(interval.value),
        f"[{show(interval.low)}, {show(interval.high)}]",
    )


def status_text(found: Status) -> str:
    """What was learned and what it saved."""
    judged = f"{found.said_right:,} said right, {found.said_wrong:,} said wrong"
    lines = [f"{counted(found.lessons, 'lesson')}; {judged}"]
    for what, counts in (("origin", found.by_origin), ("task", found.by_task)):
        if counts:
            lines.append(f"by {what}: " + ", ".join(f"{k} {n:,}" for k, n in counts.items()))
    if found.models:
        heads = ("large model", "lessons", "may train", "not stated", "may be shown")
        cells = [
            (m.model, *(f"{n:,}" for n in (m.lessons, m.may_train, m.not_stated, m.may_remember)))
            for m in found.models
        ]
        lines += ["", table(heads, cells)]
    if found.groups:
        rows = [(" ".join(g.name.split()), g.task, f"{g.lessons:,}") for g in found.groups]
        lines += ["", table(("questions like", "task", "lessons"), rows)]
    lines += _exports(found)
    lines += _used(found)
    return "\n".join(lines)


def _exports(found: Status) -> list[str]:
    if not found.exports:
        return ["", "no files were made of them"]
    rows = [(e.path, f"{e.at:%Y-%m-%d %H:%M}", e.purpose, f"{e.lessons:,}") for e in found.exports]
    return ["", table(("file", "at", "for", "lessons"), rows)]


def _used(found: Status) -> list[str]:
    used = found.used
    if used is None:
        return []
    if used.shown is None and not used.trials:
        return ["", "the ledger has no request with examples from a memory"]
    unknown = f"; {used.unknown:,} calls of unknown cost" if used.unknown else ""
    return [
        "",
        f"drafts accepted with examples: {_share(used.shown)}; before the first: "
        f"{_share(used.before)}",
        f"saved by requests with examples: {dollars(used.saved_usd)}; "
        f"{used.example_tokens:,} tokens read for examples",
        f"{counted(used.trials, 'trial')}: {dollars(used.trials_usd)}{unknown}",
    ]


def _share(share: Accepted | None) -> str:
    if share is None:
        return "none"
    ends = f"{percent(share.low)} to {percent(share.high)}"
    return f"{percent(share.share)} ({ends}) of {share.requests:,}"
