"""Console of the commands: answers, remarks, JSON for machines, errors with exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage (a wrong option, question, or set-up), 130 Ctrl-C.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from cascade.errors import CascadeError, ConfigurationError, InputError

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 and the number of the signal."""

EXTRAS: dict[str, str] = {
    **dict.fromkeys(("numpy", "scipy", "sklearn", "threadpoolctl"), "calibrate"),
    **dict.fromkeys(("fastapi", "uvicorn", "yaml"), "service"),
}
"""Packages of commands beyond those that are always installed, with the extra that has them."""

MOST_TOLD = 5
"""Rows and examples that are named one by one; the others are counted."""

AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)
"""Whether a machine reads what is said."""

COMMAND: ContextVar[str] = ContextVar("command", default="cascade")
"""The command that was typed, such as `cascade keys`."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NEXT = re.compile(r"`((?:cascade|export|iconv|ollama|pip|python) [^`]+)`")


def printable(text: str) -> str:
    """A text that cannot act on a terminal: a model could move the cursor or write to the
    clipboard."""
    return _CONTROL.sub("\ufffd", text)


def screen() -> Console:
    """Standard error of the moment, which tests and callers may replace: answers and figures alone
    go to standard output, so that they can be piped."""
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(text: str, *, style: str | None = None) -> None:
    """Write a remark to standard error."""
    screen().print(printable(text), style=style, markup=False)


@contextmanager
def busy(text: str) -> Iterator[Callable[[str], None]]:
    """A line that says what is under way, and how far it is, where a person watches."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    with screen().status(text) as status:
        yield status.update


def give(data: Any, text: str, remark: str = "") -> None:
    """Write a result: for a machine `data` as one JSON document, for a person `text`, and a remark.
    Piped, a text is as it is; on a terminal a model could act on it."""
    if AS_JSON.get():
        from cascade.evaluation.render import to_json  # noqa: PLC0415 - keeps --help fast

        text, remark = to_json(data), ""
    if text:
        sys.stdout.write(f"{printable(text) if sys.stdout.isatty() else text}\n")
        sys.stdout.flush()
    if remark:
        say(remark)


def fail(message: str, code: int, *, kind: str = "Failed", ledger: Any = None) -> NoReturn:
    """Say what went wrong, what it cost all the same, and what to type next, and leave.

    With `--json` the last line of standard error is a JSON document that says the same.
    """
    raise typer.Exit(_tell(message, code, kind, ledger))


def _tell(message: str, code: int, kind: str, ledger: Any = None) -> int:
    named = _NEXT.findall(message)
    then = named[-1].rstrip(".") if named else f"{COMMAND.get()} --help"
    if AS_JSON.get():
        error: dict[str, Any] = {"type": kind, "message": message, "next": then, "exit_code": code}
        if ledger is not None:
            error["cost_usd"] = None if ledger.cost_usd is None else format(ledger.cost_usd, "f")
        sys.stderr.write(json.dumps({"error": error}) + "\n")
        return code
    if ledger is not None and ledger.cost_usd != 0:
        say(f"what it cost all the same:\n{ledger.table()}")
    if code == INTERRUPTED:
        say(message)
    else:
        screen().print(f"[bold red]error[/]: {escape(printable(message))}")
        screen().print(f"[bold green]next[/]: {escape(then)}")
    return code


def exit_code_of(run: Callable[[], Any]) -> int:
    """The exit code of a command; what is wrong is said, with what to type next."""
    ledger = None
    try:
        return run() or 0
    except typer.TyperException as error:
        code, kind = error.exit_code, "UsageError"
        if type(error).__name__ == "NoArgsIsHelpError":  # it has shown the help
            return code
        told, why = error.format_message(), error.__cause__
        if isinstance(why, ValidationError):  # which says what is wrong, and not with what
            given = repr(why.errors()[0]["input"])
            told = told.replace("Value error, ", "") if given in told else f"{told}, not {given}"
    except typer.Abort:  # Ctrl-C at a question
        told, code, kind = "interrupted", INTERRUPTED, "Interrupted"
    except CascadeError as error:
        code = 2 if isinstance(error, ConfigurationError | InputError) else 1
        told, kind, ledger = str(error), type(error).__name__, error.ledger
    except ModuleNotFoundError as error:
        if (extra := EXTRAS.get(error.name or "")) is None:
            raise
        told, code = f"{error.name} is not installed: install the extra `{extra}`.", 2
        kind = type(error).__name__
    except OSError as error:
        told = ": ".join(str(x) for x in (error.filename, error.strerror or error) if x) + "."
        code, kind = 1, type(error).__name__
    return _tell(told, code, kind, ledger)
