"""`cascade ask`: one question through a cascade."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from cascade.cli.console import INTERRUPTED, busy, fail, give
from cascade.cli.options import Models, Policy, System, spread
from cascade.errors import InputError

if TYPE_CHECKING:
    from cascade.state import LedgerEntry


@spread
def ask(
    question: Annotated[str, Argument(help="'-' reads it from standard input.")],
    *,
    system: System = None,
    models: Models,
    policy: Policy,
) -> None:
    """Ask one question: the small model drafts, the large one answers if it has to."""
    text = question if question != "-" else _standard_input()
    messages: Any = [("system", system), ("human", text)] if system else text
    spent: list[LedgerEntry] = []
    with ExitStack() as opened:
        try:
            with busy("asking"):
                cascade = models.open(opened, **vars(policy))
                cascade.kernel.ledger.listeners.append(spent.append)
                result = cascade.invoke(messages)
        except KeyboardInterrupt:
            from cascade.ledger.view import LedgerView  # noqa: PLC0415 - heavy

            fail("interrupted", INTERRUPTED, kind="Interrupted", ledger=LedgerView(spent))
    of_ledger = ("cost_usd", "cost_basis", "saved_usd", "saved_basis")
    document = {name: value for name, value in result if name not in ("message", "parsed")}
    document |= {name: getattr(result.ledger, name) for name in of_ledger}
    told = f"\n{result.tier}: {result.decision.reason}\n{result.ledger.table()}"
    give({**document, "ledger": list(result.ledger)}, result.answer, told)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input is not UTF-8 (byte {error.start}): convert it first, "
            "iconv -f latin1 -t utf-8."
        ) from error
