"""Console of the commands: answers, remarks, JSON for machines, errors with exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage (a wrong option, question, or set-up), 130 Ctrl-C.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from cascade.errors import CascadeError, ConfigurationError, InputError, ModelNotFoundError

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 and the number of the signal."""

EXTRAS = {"calibrate": "numpy scipy sklearn threadpoolctl", "service": "fastapi uvicorn yaml"}
"""Packages beyond those that are always installed, by the extra that has them."""

AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)
"""Whether a machine reads what is said."""

COMMAND: ContextVar[str] = ContextVar("command", default="cascade")
"""The command that was typed, such as `cascade keys`."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NEXT = re.compile(r"`((?:cascade|export|iconv|ollama|pip|python) [^`]+)`")


class Interrupted(CascadeError):  # noqa: N818 - so machines read it
    """Ctrl-C, with what is kept."""


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


def busy(text: str) -> Status:
    """A line that says what is under way, and how far it is, where a person watches."""
    return screen().status(text)


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


def exit_code_of(run: Callable[[], Any]) -> int:
    """The exit code of a command; what is wrong is said, with what to type next."""
    try:
        code = run() or 0
    except typer.Abort:  # Ctrl-C at a question
        code = INTERRUPTED
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # it has shown the help
            return error.exit_code
        told, why = error.format_message(), error.__cause__
        if isinstance(why, ValidationError):  # which says what is wrong, and not with what
            given = repr(why.errors()[0]["input"])
            told = told.replace("Value error, ", "") if given in told else f"{told}, not {given}"
        return _tell(error.exit_code, "UsageError", told)
    except CascadeError as error:
        wrong = isinstance(error, ConfigurationError | InputError | ModelNotFoundError)
        code = INTERRUPTED if isinstance(error, Interrupted) else 1 + wrong
        return _tell(code, type(error).__name__, str(error), error.ledger)
    except ModuleNotFoundError as error:
        for extra, packages in EXTRAS.items():
            if error.name in packages.split():
                told = f"{error.name} is not installed: install the extra `{extra}`."
                return _tell(2, type(error).__name__, told)
        raise
    except OSError as error:
        told = ": ".join(str(x) for x in (error.filename, error.strerror or error) if x)
        return _tell(1, type(error).__name__, f"{told}.")
    return _tell(code, "Interrupted", "interrupted") if code == INTERRUPTED else code


def _tell(code: int, kind: str, told: str, ledger: Any = None) -> int:
    """Say what went wrong, what it cost all the same, and what to type next; with `--json` as a
    JSON document, the last line of standard error."""
    named = _NEXT.findall(told)
    then = named[-1].rstrip(".") if named else f"{COMMAND.get()} --help"
    if AS_JSON.get():
        error: dict[str, Any] = {"type": kind, "message": told, "next": then, "exit_code": code}
        if ledger is not None:
            error["cost_usd"] = None if ledger.cost_usd is None else f"{ledger.cost_usd:f}"
        sys.stderr.write(json.dumps({"error": error}) + "\n")
        return code
    if ledger is not None and ledger.cost_usd != 0:
        say(f"what it cost all the same:\n{ledger.table()}")
    if code == INTERRUPTED:
        say(told)
    else:
        screen().print(f"[bold red]error[/]: {escape(printable(told))}")
        screen().print(f"[bold green]next[/]: {escape(then)}")
    return code
