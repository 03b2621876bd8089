"""What the commands share: two consoles, JSON for machines, errors with exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage (a wrong option, question, or set-up), 130 Ctrl-C.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, is_dataclass
from datetime import datetime
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from cascade.errors import CascadeError, ConfigurationError, InputError

INTERRUPTED = 130
"""What a shell says of a program that Ctrl-C ended: 128 and the number of the signal."""

AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)
"""Whether a machine reads what is said."""

COMMAND: ContextVar[str] = ContextVar("command", default="cascade")
"""The command that was typed, such as `cascade keys list`."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NEXT = re.compile(r"`((?:cascade|export|iconv|ollama|pip|python) [^`]+)`")

P = ParamSpec("P")


def printable(text: str) -> str:
    """A text that cannot act on a terminal: a model could move the cursor or write to the
    clipboard."""
    return _CONTROL.sub("\ufffd", text)


class _Streams:
    """Consoles on the streams of the moment: tests and callers may put others in their place."""

    @property
    def out(self) -> Console:
        """Answers and figures."""
        return Console(highlight=False, soft_wrap=True, emoji=False)

    @property
    def err(self) -> Console:
        """Progress, remarks and errors, so that answers can be piped."""
        return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


streams = _Streams()


def say(text: str, *, style: str | None = None) -> None:
    """Write a remark to standard error."""
    streams.err.print(printable(text), style=style, markup=False)


def show(text: str) -> None:
    """Write a result to standard output."""
    streams.out.print(printable(text), markup=False)


def watched() -> bool:
    """Whether a person may watch progress on standard error."""
    return sys.stderr.isatty()


def busy(text: str) -> AbstractContextManager[object]:
    """Show that something is under way, where a person watches."""
    return streams.err.status(text) if watched() else nullcontext()


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line that says how far something is, where a person watches."""
    if not watched():
        yield lambda text: None
        return
    with streams.err.status("") as status:
        yield status.update


def print_json(value: Any) -> None:
    """Write a record as one JSON document; money is a string, so that no digit is lost, and NaN,
    which is no JSON, is null."""
    plain = _without_nan(json.loads(json.dumps(value, default=_encode)))
    sys.stdout.write(json.dumps(plain, indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {name: _without_nan(item) for name, item in value.items()}
        case list():
            return [_without_nan(item) for item in value]
    return value


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


def fail(message: str, code: int, *, kind: str = "Failed", ledger: Any = None) -> NoReturn:
    """Say what went wrong and what to type next, and leave.

    With `--json` the last line of standard error is a JSON document that says the same.

    Args:
        message: what went wrong.
        code: of the exit.
        kind: name of the error.
        ledger: what it cost all the same.
    """
    named = _NEXT.findall(message)
    then = named[-1].rstrip(".") if named else f"{COMMAND.get()} --help"
    if AS_JSON.get():
        error: dict[str, Any] = {"type": kind, "message": message, "next": then, "exit_code": code}
        if ledger is not None:
            error["cost_usd"] = None if ledger.cost_usd is None else format(ledger.cost_usd, "f")
        sys.stderr.write(json.dumps({"error": error}) + "\n")
        raise typer.Exit(code)
    if ledger is not None and len(ledger):
        say(f"what it cost all the same:\n{ledger.table()}")
    said = "" if code == INTERRUPTED else "[bold red]error[/]: "
    streams.err.print(f"{said}{escape(printable(message))}")
    if code != INTERRUPTED:
        streams.err.print(f"[bold green]next[/]: {escape(then)}")
    raise typer.Exit(code)


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors of this package, and Ctrl-C, into a message and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ConfigurationError, InputError) as error:
            fail(str(error), 2, kind=type(error).__name__, ledger=error.ledger)
        except CascadeError as error:
            fail(str(error), 1, kind=type(error).__name__, ledger=error.ledger)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            fail(f"{where}{error.strerror or error}.", 1, kind=type(error).__name__)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED, kind="Interrupted")

    return run


@contextmanager
def spending(cascade: Any) -> Iterator[None]:
    """Say what was spent when a person interrupts what costs money."""
    from cascade.ledger.view import LedgerView  # noqa: PLC0415 - heavy, keeps --help fast

    entries: list[Any] = []
    listen = entries.append
    cascade.kernel.ledger.listeners.append(listen)
    try:
        yield
    except KeyboardInterrupt:
        ledger = LedgerView(entries)
        fail("interrupted", INTERRUPTED, kind="Interrupted", ledger=ledger)
    finally:
        cascade.kernel.ledger.listeners.remove(listen)
