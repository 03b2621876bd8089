"""`cascade ask`: one question through a cascade."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from cascade.cli.console import AS_JSON, Interrupted, busy, give, printable, say, screen
from cascade.cli.options import Models, PolicyOptions, System, spread
from cascade.errors import InputError
from cascade.events import Decided, Provisional, Token

if TYPE_CHECKING:
    from cascade.state import LedgerEntry


@spread
def ask(
    question: Annotated[str, Argument(help="'-' reads it from standard input.")],
    *,
    system: System = None,
    local_only: Annotated[
        bool,
        Option("--local-only", help="Ask no model elsewhere; a doubtful draft is the answer too."),
    ] = False,
    models: Models,
    policy: PolicyOptions,
) -> None:
    """Ask one question: the small model drafts, the large one answers if it has to.

    A terminal shows drafts and decisions as they come.
    """
    try:
        text = question if question != "-" else sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        told = f"standard input is not UTF-8 (byte {error.start}): convert it first"
        raise InputError(f"{told}, `iconv -f latin1 -t utf-8`.") from error
    messages: Any = [("system", system), ("human", text)] if system else text
    watched = sys.stderr.isatty() and not AS_JSON.get()
    spent: list[LedgerEntry] = []
    result: Any = None
    with ExitStack() as opened:
        try:
            with busy("getting ready"):
                cascade = models.open(opened, local_only=local_only, **vars(policy))
                cascade.kernel.ledger.listeners.append(spent.append)
            for result in cascade.stream(messages, show="optimistic" if watched else "final"):
                _show(result)
            if watched:
                say("")
        except KeyboardInterrupt:
            from cascade.ledger.view import LedgerView  # noqa: PLC0415 - heavy

            interrupted = Interrupted("interrupted")
            interrupted.ledger = LedgerView(spent)
            raise interrupted from None
    of_ledger = ("cost_usd", "cost_basis", "saved_usd", "saved_basis")
    document = {name: value for name, value in result if name not in ("message", "parsed")}
    document |= {name: getattr(result.ledger, name) for name in of_ledger}
    told = f"\n{result.tier}: {result.decision.reason}\n{result.ledger.table()}"
    give({**document, "ledger": list(result.ledger)}, result.answer, told)


def _show(event: Any) -> None:
    if isinstance(event, Provisional | Token):
        screen().print(printable(event.text), style="dim", end="", markup=False)
    elif isinstance(event, Decided):
        say(f"\n{event.tier}: {event.decision.action}, {event.decision.reason}")
