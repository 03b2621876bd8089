"""What the commands share: two consoles, JSON for machines, errors with exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage (a wrong option, question, or set-up), 130 Ctrl-C.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, is_dataclass
from datetime import datetime
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import typer
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from cascade._printable import printable
from cascade._words import counted, dollars
from cascade.cli.advice import TYPED, next_command
from cascade.errors import CascadeError, ConfigurationError, InputError

if TYPE_CHECKING:
    from cascade.ledger.view import LedgerView

INTERRUPTED = 130
"""What a shell says of a program that Ctrl-C ended: 128 and the number of the signal."""

P = ParamSpec("P")


class PlainConsole(Console):
    """Shows what others have named or said, and lets none of it act on the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """What is written, piece by piece."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n\t"), segment.style)


# Without emoji: rich would make a cross of the middle of `ollama:x: nobody answers`.
out = PlainConsole(highlight=False, soft_wrap=True, emoji=False)
"""Answers and figures."""

err = PlainConsole(stderr=True, highlight=False, soft_wrap=True, emoji=False)
"""Progress, remarks and errors, so that answers can be piped."""


def screen() -> PlainConsole:
    """What is drawn anew again and again on stderr, which has to know where its lines end."""
    return PlainConsole(stderr=True, highlight=False, emoji=False)


def fits(table: str) -> bool:
    """Whether a ledger's table is as narrow as the screen, if there is one: broken lines are no
    columns any more. What stands below its columns may be broken."""
    return not err.is_terminal or len(table.splitlines()[1]) <= err.width


def watched() -> bool:
    """Whether somebody may watch progress on stderr: colours alone can be forced into a file."""
    return err.file.isatty() and not err.is_dumb_terminal


def busy(text: str) -> AbstractContextManager[object]:
    """Show that something is under way, to whoever watches."""
    return err.status(text) if watched() else nullcontext()


def print_json(value: Any) -> None:
    """Write a record as one JSON document; money is a string, so that no digit is lost."""
    write_json(json.dumps(value, default=_encode, indent=2, ensure_ascii=False))


def write_json(document: str) -> None:
    """Write a JSON document, the same one, with an escape for what would act on a terminal."""
    sys.stdout.write(_for(sys.stdout.encoding, document) + "\n")


def _for(encoding: str | None, document: str) -> str:
    """The document with an escape also for what the stream has no character for."""
    text = printable(document, keep="\n", form="json")
    if codecs.lookup(encoding or "ascii").name.startswith("utf"):
        return text
    return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)


def _encode(value: Any) -> Any:
    match value:
        case Decimal():
            return format(value, "f")
        case datetime():
            return value.isoformat()
        case Path():
            return str(value)
        case BaseModel():
            return value.model_dump()
        case _ if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")


def fail(
    message: str,
    code: int,
    *,
    kind: str = "Failed",
    of_model: str | None = None,
    ledger: LedgerView | None = None,
) -> NoReturn:
    """Say what went wrong and what to type next, and leave.

    With `--json` the last line of stderr is a JSON document that says the same.

    Args:
        message: what went wrong.
        code: of the exit.
        kind: name of the error.
        of_model: the model that failed.
        ledger: what it cost all the same.
    """
    typed = TYPED.get()
    then = next_command(message, typed, of_model)
    if typed.as_json:
        error = {"type": kind, "message": message, "next": then, "exit_code": code}
        cost = {} if ledger is None else {"cost_usd": ledger.cost_usd}
        line = json.dumps({"error": error | cost}, default=_encode, ensure_ascii=False)
        sys.stderr.write(_for(sys.stderr.encoding, line) + "\n")
        raise typer.Exit(code)
    if ledger is not None and len(ledger) and fits(text := ledger.table()):
        err.print(f"what it cost all the same:\n{text}", markup=False)
    said = "" if code == INTERRUPTED else "[bold red]error[/]: "
    err.print(f"{said}{_escape(message)}")
    if then is not None:
        err.print(f"[bold green]next[/]: {_escape(then)}")
    raise typer.Exit(code)


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors of this package, and Ctrl-C, into a message and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ConfigurationError, InputError) as error:
            fail(str(error), 2, kind=type(error).__name__)
        except CascadeError as error:
            model = getattr(error, "model", None)
            kind = type(error).__name__
            fail(str(error), 1, kind=kind, of_model=model, ledger=error.ledger)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED, kind="Interrupted")

    return run


@contextmanager
def spending() -> Iterator[None]:
    """Say what was spent when somebody interrupts what costs money."""
    from cascade.ledger import LedgerView  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.ledger.recorder import charging  # noqa: PLC0415

    with charging() as entries:
        try:
            yield
        except KeyboardInterrupt:
            ledger = LedgerView(entries)
            calls = sum(entry.model is not None for entry in entries)
            spent = f"{dollars(ledger.known_cost_usd)} in {counted(calls, 'call')}"
            more = f", and {ledger.unknown:,} of them at an unknown cost"
            said = f"interrupted; spent: {spent}{more if ledger.unknown else ''}"
            fail(said, INTERRUPTED, kind="Interrupted", ledger=ledger)


def _escape(text: str) -> str:
    from rich.markup import escape  # noqa: PLC0415 - shadows a common name at module level

    return escape(text)
