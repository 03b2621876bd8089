"""The command line, `cascade`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cascade._version import __version__
from cascade.cli.console import AS_JSON, COMMAND, INTERRUPTED, fail, without_tracebacks

COMMANDS = {
    "ask": "ask",
    "batch": "batch",
    "calibrate": "judge",
    "demo": "judge",
    "doctor": "doctor",
    "evaluate": "judge",
    "keys": "serve",
    "lessons": "teach",
    "plan": "plan",
    "report": "report",
    "serve": "serve",
    "teach": "teach",
    "try": "judge",
}
"""The commands and the modules that have them: only the module of what was typed is loaded."""


class Program(TyperGroup):
    """The commands, loaded when they are typed, with errors that end with what to type next."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None where there is none."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"cascade.cli.{COMMANDS[cmd_name]}")
        found = typer.Typer(
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        command = getattr(module, f"{cmd_name}_" if cmd_name == "try" else cmd_name)
        if isinstance(command, typer.Typer):
            made: Any = typer.main.get_group(command)
        else:
            epilog = getattr(module, "EXAMPLES", {}).get(cmd_name) or module.EXAMPLE
            found.command(name=cmd_name, epilog=epilog)(command)
            made = typer.main.get_command(found)
        made.name = cmd_name
        return made

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C is told."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED, kind="Interrupted")

    def main(self, args: Any = None, prog_name: str | None = None, *_: Any, **options: Any) -> Any:
        """Run what was typed, and leave with the command's exit code."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        AS_JSON.set("--json" in given[:end])
        words = [word for word in given[:1] if word in COMMANDS]
        COMMAND.set(" ".join(["cascade", *words]))
        plain = {**options, "standalone_mode": False}
        code = without_tracebacks(lambda: super(Program, self).main(given, prog_name, **plain))
        if options.get("standalone_mode", True):
            sys.exit(code)
        return code


app = typer.Typer(
    name="cascade",
    cls=Program,
    help="A small model drafts, its confidence is checked, a large model answers what is doubtful.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cascade {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    del version  # its callback has done the work


def main() -> None:
    """Run the command line."""
    app()
