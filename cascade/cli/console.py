"""What the commands share: two consoles, JSON for machines, errors with exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage (a wrong option, question, or set-up).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from datetime import datetime
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import typer
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from cascade._printable import printable
from cascade.errors import CascadeError, ConfigurationError, InputError

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


def print_json(value: Any) -> None:
    """Write a record as one JSON document; money is a string, so that no digit is lost."""
    write_json(json.dumps(value, default=_encode, indent=2, ensure_ascii=False))


def write_json(document: str) -> None:
    """Write a JSON document, the same one, with an escape for what would act on a terminal."""
    sys.stdout.write(printable(document, keep="\n", form="json") + "\n")


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


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong and leave."""
    err.print(f"[bold red]error[/]: {_escape(message)}")
    raise typer.Exit(code)


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors of this package into a message and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ConfigurationError, InputError) as error:
            fail(str(error), 2)
        except CascadeError as error:
            if error.ledger is not None and len(error.ledger):
                err.print(f"what it cost all the same:\n{_escape(error.ledger.table())}")
            fail(str(error), 1)

    return run


def _escape(text: str) -> str:
    from rich.markup import escape  # noqa: PLC0415 - shadows a common name at module level

    return escape(text)
