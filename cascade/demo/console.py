"""How a run of the demo looks in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cascade._words import dollars, percent
from cascade.demo.records import DemoOutcome, Facts, Findings, Step, Watcher
from cascade.demo.report import Line, Share
from cascade.demo.words import PER, interval, short_name

FEW = 80
"""Below this many questions the examples of the prompts are a large part of what is computed."""


def announce(facts: Facts, console: Console) -> None:
    """Say what is going to run and what is assumed."""
    source = f"{facts.large_source.upper()}: {escape('; '.join(facts.remarks))}"
    console.print(f"small  [bold]{escape(facts.small)}[/], LIVE, in this process")
    console.print(f"large  [bold]{escape(facts.large)}[/], {source}")
    for assumption in facts.assumptions:
        console.print(f"[dim]price  {escape(assumption)}[/]")
    if facts.large_source == "live" and facts.large_alone:
        console.print(
            f"[yellow]--compare asks {escape(facts.large)} all {facts.n} questions, also those "
            "that the cascade would not ask: that costs money.[/]"
        )
    console.print(
        f"A draft is accepted where its confidence is {facts.threshold:g} or more "
        "(a raw score, not calibrated).\n"
    )


@contextmanager
def watching(console: Console) -> Iterator[Watcher]:
    """A watcher that announces the run and then shows a progress bar."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[escalated]} escalated"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("asking", total=None, start=False, escalated=0)

    def begins(facts: Facts) -> None:
        announce(facts, console)
        bar.update(task, total=facts.n)
        bar.start_task(task)
        bar.start()

    def steps(step: Step) -> None:
        bar.update(task, completed=step.done, escalated=step.escalated)

    try:
        yield Watcher(begins, steps)
    finally:
        bar.stop()


def show(outcome: DemoOutcome, console: Console) -> None:
    """Print what a run found out, and where it is drawn."""
    findings = outcome.findings
    console.print(_accuracies(findings))
    console.print(f"\n{_sentences(findings)}\n")
    console.print(_kinds(findings))
    console.print()
    console.print(findings.table, markup=False, highlight=False)
    console.print(f"\n{_money(findings)}")
    console.print(f"\npage     {escape(str(outcome.page))}")
    drawn = str(outcome.picture) if outcome.picture else "needs matplotlib: agent-cascade[plot]"
    console.print(f"picture  {escape(drawn)}")


def _accuracies(findings: Findings) -> Table:
    facts, overall = findings.facts, findings.report.overall
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for head in ("", "right", "95 % interval", "who"):
        table.add_column(head, justify="right" if head == "right" else "left")
    rows: list[tuple[str, Share | None, str]] = [
        ("small alone", overall.small, f"{short_name(facts.small)}, live"),
        ("cascade", overall.cascade, f"{overall.escalated.count} of {facts.n} escalated"),
        ("large alone", overall.large, f"{short_name(facts.large)}, {facts.large_source}"),
    ]
    for name, share, who in rows:
        figures = (percent(share.rate), interval(share)) if share else ("not known", "--compare")
        style = "bold" if name == "cascade" else None
        table.add_row(name, *figures, escape(who), style=style)
    return table


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
        f"({each[0]} instead of {each[1]} per million questions).{spent}{few}"
    )
