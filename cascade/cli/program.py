"""How the program is run: errors of what was typed, and streams that cannot show everything."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from cascade.cli.advice import TYPED, Typed
from cascade.cli.console import INTERRUPTED, fail

__all__ = ["Program"]

PLAIN = str.maketrans(
    {
        **dict.fromkeys("─━╸╺–", "-"),
        **dict.fromkeys("│┃", "|"),
        **dict.fromkeys("╭╮╰╯┌┐└┘├┤┼", "+"),
        **dict.fromkeys("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "*"),
        **dict.fromkeys("’‘", "'"),
        "−": "-",
        "≈": "~",
        "≥": ">=",
        "≤": "<=",
        "…": "...",
        "✓": "+",
        "✗": "x",
        "↑": "^",
        "→": "->",
        "█": "#",
        "░": ".",
    }
)
"""What the program itself writes, for a terminal that knows ASCII alone."""


class Program(TyperGroup):
    """The commands, with errors that end with the next command to type."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run what was typed, and leave with the command's exit code."""
        given = list(sys.argv[1:] if args is None else args)
        token = TYPED.set(self._typed(given))
        _show_everything()
        run = super().main
        try:
            code = _without_tracebacks(
                lambda: run(given, prog_name, complete_var, False, windows_expand_args, **extra)
            )
        finally:
            TYPED.reset(token)
        if standalone_mode:
            sys.exit(code)
        return code

    def _typed(self, arguments: Sequence[str]) -> Typed:
        names: list[str] = []
        found: Any = self
        for argument in arguments:
            below = getattr(found, "commands", {})
            if argument not in below:
                break
            names.append(argument)
            found = below[argument]
        end = arguments.index("--") if "--" in arguments else len(arguments)
        command = " ".join(["cascade", *names])
        return Typed(tuple(arguments), command, "--json" in arguments[:end])


def _without_tracebacks(run: Any) -> Any:
    """The exit code; what is wrong with what was typed is said as every other error."""
    try:
        try:
            return run() or 0
        except typer.TyperException as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # it has shown the help
                return error.exit_code
            fail(error.format_message(), error.exit_code, kind="UsageError")
        except typer.Abort:  # Ctrl-C at a question
            fail("interrupted", INTERRUPTED, kind="Interrupted")
    except typer.Exit as left:
        return left.exit_code


def _show_everything() -> None:
    """Let no character end the program that a stream cannot show (`PYTHONIOENCODING=ascii`)."""
    codecs.register_error("cascade", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "surrogateescape":
            stream.reconfigure(errors="cascade")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = error.object[error.start : error.end].translate(PLAIN)
    return shown.encode("ascii", "backslashreplace").decode("ascii"), error.end
