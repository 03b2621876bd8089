"""How a run of the demo looks in a terminal."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cascade._printable import printable
from cascade._words import dollars, percent
from cascade.demo.records import DemoOutcome, Facts, Findings, Step, Watcher
from cascade.demo.report import Line, Outcome, Share
from cascade.demo.words import PER, interval, short_name

FEW = 80
"""Below this many questions the examples of the prompts are a large part of what is computed."""


BUSY = 2
"""Load per core from which other programs slow the small model down; it alone makes about 1."""

LAST = 6
"""Questions that are on the screen while others are asked."""

NARROW = 70
"""Columns of a terminal below which only the question and what became of it are shown."""

BAR = 20
"""Characters of a share of right answers."""

_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def announce(facts: Facts, console: Console) -> None:
    """Say what is going to run and what is assumed."""
    remarks = _DIGEST.sub(r"\1…", "; ".join(facts.remarks))  # the page has all of it
    table = Table.grid(padding=(0, 2))
    table.add_row("small", f"[bold]{escape(facts.small)}[/], LIVE, in this process")
    large = f"[bold]{escape(facts.large)}[/], {facts.large_source.upper()}: {escape(remarks)}"
    table.add_row("large", large)
    for assumption in facts.assumptions:
        table.add_row("price", escape(assumption), style="dim")
    console.print(table)
    if facts.large_source == "live" and facts.large_alone:
        console.print(
            f"[yellow]--compare asks {escape(facts.large)} all {facts.n} questions, also those "
            "that the cascade would not ask: that costs money.[/]"
        )
    console.print(
        f"A draft is accepted where its confidence is {facts.threshold:g} or more "
        "(a raw score, not calibrated).\n"
    )


class _Screen:
    """The last questions with what became of them, above a bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: deque[Outcome] = deque(maxlen=LAST)
        self._small = self._cascade = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(BAR),
            MofNCompleteColumn(),
            TextColumn("{task.fields[so_far]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("asking", total=None, start=False, so_far="")

    def begins(self, facts: Facts) -> None:
        announce(facts, self._console)
        self._bar.update(self._task, total=facts.n)
        self._bar.start_task(self._task)

    def steps(self, step: Step) -> None:
        if step.outcome is not None:
            self._last.append(step.outcome)
            self._small += step.outcome.small_correct
            self._cascade += step.outcome.cascade_correct
        right = f"right: small {percent(self._small / step.done, 0)}, cascade "
        right += percent(self._cascade / step.done, 0)
        so_far = f"{step.escalated} escalated; {right}"
        narrow = self._console.width < NARROW
        self._bar.update(self._task, completed=step.done, so_far="" if narrow else so_far)

    def render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2), expand=True)
        narrow = self._console.width < NARROW
        for ratio in (None, 3, None) if narrow else (None, 3, None, None, 2):
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio)
        for outcome in self._last:
            mark = Text("✓", "green") if outcome.cascade_correct else Text("✗", "red")
            what = Text("escalated", "yellow") if outcome.escalated else Text("kept", "green")
            question = Text(" ".join(outcome.question.split()), "dim")
            known = outcome.confidence
            sure = Text("–" if known is None else f"{known:.2f}")
            more = [] if narrow else [sure, _answers(outcome)]
            table.add_row(mark, question, what, *more)
        return Group(table, self._bar)


def _answers(outcome: Outcome) -> Text:
    """The draft, and what replaced it."""
    draft = _line(outcome.small_answer) or "nothing"
    if not outcome.escalated:
        return Text(draft)
    large = _line(outcome.large_answer or "")
    return Text(draft, "dim strike").append(" ").append(large, "not dim not strike")


def _line(text: str) -> str:
    """On one line, and as wide as it looks: what acts on a terminal has an escape."""
    return printable(" ".join(text.split()))


@contextmanager
def watching(console: Console, *, live: bool = True) -> Iterator[Watcher]:
    """A watcher that announces the run and then shows the last questions and a progress bar.

    Args:
        console: where; one that breaks lines itself.
        live: whether somebody watches; else only the announcement is written.
    """
    screen = _Screen(console)
    shown = Live(
        console=console, get_renderable=screen.render, transient=True, redirect_stdout=False
    )

    def begins(facts: Facts) -> None:
        screen.begins(facts)
        if live:
            shown.start()

    try:
        yield Watcher(begins, screen.steps)
    finally:
        shown.stop()


def show(outcome: DemoOutcome, console: Console) -> None:
    """Print what a run found out, and where it is drawn."""
    findings = outcome.findings
    console.print(_accuracies(findings, bars=console.width >= NARROW))
    console.print(f"\n{_sentences(findings)}\n")
    console.print(_kinds(findings))
    console.print()
    console.print(findings.table, markup=False, highlight=False)
    console.print(f"\n{_money(findings)}")
    console.print(f"\npage     {escape(str(outcome.page))}")
    drawn = str(outcome.picture) if outcome.picture else "needs matplotlib: agent-cascade[plot]"
    console.print(f"picture  {escape(drawn)}")
    console.print("\nYour own models: [bold]cascade doctor[/] shows which are within reach.")


def _accuracies(findings: Findings, *, bars: bool) -> Table:
    facts, overall = findings.facts, findings.report.overall
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for head in ("", *[" "] * bars, "right", "95 % interval", "who"):
        width = BAR if head == " " else None  # of the others "who" may have two lines
        table.add_column(head, justify="right" if head == "right" else "left", min_width=width)
    rows: list[tuple[str, Share | None, str]] = [
        ("small alone", overall.small, f"{short_name(facts.small)}, live"),
        ("cascade", overall.cascade, f"{overall.escalated.count} of {facts.n} escalated"),
        ("large alone", overall.large, f"{short_name(facts.large)}, {facts.large_source}"),
    ]
    for name, share, who in rows:
        figures = (percent(share.rate), interval(share)) if share else ("not known", "--compare")
        style = "bold" if name == "cascade" else None
        bar = [_bar(share)] if bars else []
        table.add_row(name, *bar, *figures, escape(who), style=style)
    return table


def _bar(share: Share | None) -> Text:
    full = round((share.rate if share else 0.0) * BAR)
    return Text("█" * full, "green").append("░" * (BAR - full), "dim")


def _sentences(findings: Findings) -> str:
    report, overall = findings.report, findings.report.overall
    accepted = overall.accepted_right
    sentences = [
        f"escalation rate {percent(overall.escalated.rate)}; "
        f"{accepted.count} of {accepted.n} accepted drafts are right"
    ]
    if report.auroc is not None:
        sentences.append(f"AUROC of the confidence for 'the draft is right': {report.auroc:.3f}")
    if findings.degraded:
        sentences.append(f"{findings.degraded} answers are drafts because the large model failed")
    sentences.append(f"took {findings.seconds:.0f} s")
    return "\n".join(sentences)


def _kinds(findings: Findings) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for head in ("kind", "n", "small", "cascade", "large", "escalated"):
        table.add_column(head, justify="left" if head == "kind" else "right", style="dim")
    for line in findings.report.kinds:
        table.add_row(*_kind(line))
    return table


def _kind(line: Line) -> tuple[str, ...]:
    shares = (line.small, line.cascade, line.large, line.escalated)
    return line.kind, str(line.n), *(percent(s.rate, 0) if s else "–" for s in shares)


def _money(findings: Findings) -> str:
    report, facts = findings.report, findings.facts
    if report.saved_share is None:
        return "What was saved against the large model alone is not known: " + (
            "a price is missing." if facts.large_alone else "it was not asked everything."
        )
    word = "saved" if report.saved_share >= 0 else "LOST"
    each = [
        dollars(float(cost) / facts.n * PER)
        for cost in (report.cascade_cost, report.large_cost)
        if cost is not None
    ]
    spent = (
        f"\n--compare itself spent {dollars(findings.compare_cost)} more."
        if facts.large_source == "live"
        else ""
    )
    few = (
        "\nWith few questions the small model reads the examples of each kind for little: all "
        "questions together cost less each."
        if facts.n < FEW
        else ""
    )
    return (
        f"Against the large model alone, on the tokens of its own answers: {word} "
        f"[bold]{percent(abs(report.saved_share))}[/] "
        f"({each[0]} instead of {each[1]} per million questions).{spent}{few}{_busy()}"
    )


def _busy() -> str:
    """That the small model's time, and with it its price, is not what it would be alone."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < BUSY * cores:
        return ""
    return (
        f"\nThis machine is busy with other things (load {load:.0f} on {cores} cores): the small "
        "model takes longer than it would alone, and costs by the hour."
    )
