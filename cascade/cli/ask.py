"""`cascade ask`: one question through a cascade."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from cascade.cli.console import (
    AS_JSON,
    INTERRUPTED,
    busy,
    fail,
    print_json,
    printable,
    say,
    screen,
    watched,
)
from cascade.cli.options import Models, Policy, System, spread
from cascade.errors import InputError

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.result import CascadeResult
    from cascade.state import LedgerEntry


@spread
def ask(
    question: Annotated[str, Argument(help="'-' reads it from standard input.")],
    *,
    system: System = None,
    local_only: Annotated[
        Literal["answer", "abstain"] | None,
        Option(
            help="Ask no model that is not on this machine. A draft that is not good enough is the "
            "answer all the same, or with 'abstain' there is none."
        ),
    ] = None,
    models: Models,
    policy: Policy,
) -> None:
    """Ask one question: the small model drafts, the large one answers if it has to.

    A terminal shows the draft, its confidence and the decision as they come, on standard error.
    """
    text = question if question != "-" else _standard_input()
    messages: Any = [("system", system), ("human", text)] if system else text
    spent: list[LedgerEntry] = []
    with ExitStack() as opened:
        with busy("getting ready"):
            cascade = models.open(opened, local_only=local_only or False, **vars(policy))
        cascade.kernel.ledger.listeners.append(spent.append)
        try:
            followed = watched() and not AS_JSON.get()
            result = _follow(cascade, messages) if followed else cascade.invoke(messages)
        except KeyboardInterrupt:
            from cascade.ledger.view import LedgerView  # noqa: PLC0415 - heavy

            fail("interrupted", INTERRUPTED, kind="Interrupted", ledger=LedgerView(spent))
        _show(result)


def _follow(cascade: Cascade, messages: Any) -> CascadeResult:
    """Show drafts and decisions while they come."""
    from cascade.events import Decided, Provisional, Retracted, Token  # noqa: PLC0415
    from cascade.result import CascadeResult  # noqa: PLC0415

    err, told = screen(), ""
    for event in cascade.stream(messages, show="optimistic"):
        match event:
            case Provisional() | Token():
                if event.tier != told:
                    err.print(f"\n{event.tier}: ", style="bold", end="", markup=False)
                    told = event.tier
                err.print(printable(event.text), style="dim", end="", markup=False)
            case Decided():
                said = f"{event.decision.action}: {event.decision.reason}"
                err.print(f"\n{said}", style="cyan", markup=False)
            case Retracted():
                told = ""
            case CascadeResult():
                err.print()
                return event
    raise AssertionError("a stream ends with its result")


def _show(result: CascadeResult) -> None:
    if AS_JSON.get():
        of_ledger = ("cost_usd", "cost_basis", "saved_usd", "saved_basis")
        document = {name: value for name, value in result if name not in ("message", "parsed")}
        document |= {name: getattr(result.ledger, name) for name in of_ledger}
        print_json({**document, "abstained": result.abstained, "ledger": list(result.ledger)})
        return
    if not result.abstained:
        # Piped as it is; on a terminal a model could act on it.
        answer = printable(result.answer) if sys.stdout.isatty() else result.answer
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    source = "no answer" if result.abstained else result.tier
    say(f"\n{source}: {result.decision.reason}\n{result.ledger.table()}", style="dim")


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input is not UTF-8 (byte {error.start}): convert it first, "
            "iconv -f latin1 -t utf-8."
        ) from error
