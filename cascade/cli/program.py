"""The program: all commands, each loaded when it is typed."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cascade._version import __version__
from cascade.cli.console import AS_JSON, COMMAND, exit_code_of

PAIR = "--small ollama:qwen2.5:3b --large openai:gpt-5.1"

COMMANDS = {
    "ask": ("running", f"'What is the capital of Australia?' {PAIR} --price-of-error 0.05"),
    "batch": ("running", f"in.csv --output out.csv {PAIR} --prices prices.toml --budget-usd 5"),
    "calibrate": ("judge", f"examples.jsonl {PAIR} --max-harm 0.05 --out calibration.json"),
    "demo": ("judge", "--n 40"),
    "doctor": ("doctor", "--model openai:gpt-5.1 --model ollama:qwen2.5:3b"),
    "evaluate": ("judge", f"answers.jsonl {PAIR} --price-of-error 0.05 --html report.html"),
    "keys": ("keeping", "create cascade.yaml search-team --day-usd 5 --per-minute 120"),
    "lessons": ("keeping", "delete sqlite:///lessons.db --user ada"),
    "plan": (
        "money",
        "--input-tokens 400 --output-tokens 100 --small-price 0.1,0.4 --large openai:gpt-5.1",
    ),
    "report": ("money", "sqlite:///ledger.db --since 7d --tag team=search --html report.html"),
    "serve": ("running", "cascade.yaml --check"),
    "teach": ("keeping", "export sqlite:///lessons.db --output train.jsonl"),
    "try": ("judge", f"tickets.csv --question text --label category {PAIR} --prices prices.toml"),
}
"""Module and example of each command: only the module of what was typed is loaded."""


class Program(TyperGroup):
    """The commands, loaded when they are typed, with errors that end with what to type next."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, example = COMMANDS[cmd_name]
        loaded = import_module(f"cascade.cli.{module}")
        command = getattr(loaded, "try_" if cmd_name == "try" else cmd_name)
        if isinstance(command, typer.Typer):
            made: Any = typer.main.get_group(command)
        else:
            alone = typer.Typer(add_completion=False)
            alone.command()(command)
            made = typer.main.get_command(alone)
        made.name, made.epilog = cmd_name, f"Example: cascade {cmd_name} {example}"
        return made

    def main(self, args: Any = None, prog_name: str | None = None, *_: Any, **options: Any) -> Any:
        """Run what was typed, and leave with the command's exit code."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        AS_JSON.set("--json" in given[:end])
        COMMAND.set(" ".join(["cascade", *(word for word in given[:1] if word in COMMANDS)]))
        plain = {**options, "standalone_mode": False}
        sys.exit(exit_code_of(lambda: super(Program, self).main(given, prog_name, **plain)))


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


LEAVE = "Print the version and leave."
Version = typer.Option("--version", callback=_show_version, is_eager=True, help=LEAVE)


@app.callback()
def _root(version: Annotated[bool, Version] = False) -> None:
    del version  # its callback has done the work
