"""What `cascade ask` shows while a question is on its way: draft, confidence, decision, answer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cascade._printable import printable
from cascade._words import dollars
from cascade.cli.console import screen
from cascade.events import Decided, Event, Provisional, Retracted, Token
from cascade.result import CascadeResult

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.questions import Question
    from cascade.state import Assessment, Decision

__all__ = ["Way", "follow"]

BAR = 16
"""Characters of a confidence."""
LEFT_OVER = 8
"""Lines of a screen for what is not text of a model."""
SHOWN_OF_A_DRAFT = 200
"""Characters of a rejected draft that stay on the screen."""
FRAMES_PER_S = 12


class Way:
    """The way of one question, as far as it has come.

    Args:
        models: their names, by tier.
        first: the tier that drafts.
    """

    def __init__(self, models: Mapping[str, str], first: str) -> None:
        self._models = models
        self._rows: list[tuple[str, Text]] = []
        self._first = first
        self._text, self._waits_for = "", first
        self._spinner = Spinner("dots")

    def take(self, event: Event | CascadeResult) -> None:
        """Go on with what has happened."""
        match event:
            case Provisional(text=text) | Token(text=text):
                self._text += printable(text, keep="\n\t")
            case Decided(tier=tier, decision=decision, assessment=assessment):
                self._decided(tier, decision, assessment)
            case Retracted(reason=reason):
                if self._text:
                    self._rows.append(("taken back", Text(printable(reason))))
                self._text = ""
            case CascadeResult():
                self._ended(event)

    def _decided(self, tier: str, decision: Decision, assessment: Assessment) -> None:
        rejected = decision.action == "escalate"
        draft = Text(self._models.get(tier, tier))
        if rejected and self._text.strip():
            words = " ".join(self._text.split())
            short = words if len(words) <= SHOWN_OF_A_DRAFT else f"{words[:SHOWN_OF_A_DRAFT]}…"
            draft.append("\n").append(short, style="dim strike")
            self._text = ""
        self._rows.append(("draft", draft))
        self._rows.append(("confidence", _confidence(decision, assessment)))
        style = {"accept": "green", "escalate": "yellow"}.get(decision.action, "bold")
        said = Text(decision.action, style=style).append(
            f": {printable(decision.reason)}", style="default"
        )
        self._rows.append(("decision", said))
        self._waits_for = self._next(tier, decision) if rejected else ""

    def _next(self, tier: str, decision: Decision) -> str:
        names = list(self._models)
        return decision.tier or names[min(names.index(tier) + 1, len(names) - 1)]

    def _ended(self, result: CascadeResult) -> None:
        who = "nobody" if result.abstained else self._models.get(result.tier, result.tier)
        style = "bold yellow" if result.degraded or result.abstained else "bold"
        answered = Text(who, style=style)
        if result.degraded:
            answered.append(f" ({printable(result.decision.reason)})", style="default")
        self._rows.append(("answered by", answered))
        ledger = result.ledger
        self._rows.append(("cost", Text(_figure(ledger.cost_usd, ledger.cost_basis))))
        saved = ledger.saved_usd
        if saved is not None and saved < 0:
            self._rows.append(("LOST", Text(_figure(-saved, ledger.saved_basis))))
        else:
            self._rows.append(("saved", Text(_figure(saved, ledger.saved_basis))))
        self._text, self._waits_for = "", ""

    def stop(self) -> None:
        """Wait for nothing any more: it has failed, or was interrupted."""
        self._waits_for = ""

    def render(self, console: Console) -> RenderableType:
        """The way so far; of a text on its way so much of the end as fits."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in self._rows:
            table.add_row(name, text)
        if not self._waits_for:
            return table
        doing = "drafts" if self._waits_for == self._first and not self._rows else "answers"
        self._spinner.update(text=Text(f"{self._models[self._waits_for]} {doing} …"))
        text = Text(self._text, style="dim" if doing == "drafts" else "")
        lines = list(text.wrap(console, console.width)) if self._text else []
        room = max(1, console.height - LEFT_OVER - len(self._rows))
        return Group(table, self._spinner, *lines[-room:])


def _confidence(decision: Decision, assessment: Assessment) -> Text:
    if assessment.objection is not None:
        return Text(f"none: {printable(assessment.objection)}")
    known = assessment.confidence
    if known is None:
        return Text(f"none: {assessment.missing or 'it was not asked for'}")
    full = round(min(max(known, 0.0), 1.0) * BAR)
    basis = "calibrated" if assessment.calibrated else "raw score, not calibrated"
    needed = "" if decision.threshold is None else f"; needs {decision.threshold:.2f}"
    bar = Text("█" * full, style="green" if decision.action == "accept" else "yellow")
    bar.append("░" * (BAR - full), style="dim")
    return Text(f"{known:.2f} ").append_text(bar).append(f" {basis}{needed}")


def _figure(amount: Decimal | None, basis: str) -> str:
    return "unknown: a price is missing" if amount is None else f"{dollars(amount)} ({basis})"


def follow(cascade: Cascade, question: Question) -> CascadeResult:
    """Ask, and show on stderr what happens; what stays there is the way, and no answer."""
    console = screen()
    way = Way({tier.name: tier.model.name for tier in cascade.tiers}, cascade.tiers[0].name)
    shown = Live(
        console=console,
        refresh_per_second=FRAMES_PER_S,
        get_renderable=lambda: way.render(console),
        redirect_stdout=False,
    )
    events = cascade.stream(question, show="optimistic")
    with closing(events), shown:
        try:
            for event in events:
                way.take(event)
                if isinstance(event, CascadeResult):
                    return event
        finally:
            way.stop()
    raise AssertionError("a stream ends with its result")
