"""The program around all commands: what is typed, what is said, and how it ends.

Answers and figures alone go to standard output, so that they can be piped. Exit codes: 0 done, 1
failed, 2 wrong usage (a wrong option, question, or set-up), 130 Ctrl-C.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from copy import copy
from dataclasses import fields, is_dataclass
from functools import wraps
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from typer.core import TyperGroup

from cascade._version import __version__
from cascade.errors import CascadeError, ConfigurationError, InputError, ModelNotFoundError

PAIR = "--small ollama:qwen2.5:3b --large openai:gpt-5.1"

COMMANDS = {
    "ask": ("running", f"'What is the capital of Australia?' {PAIR} --price-of-error 0.05"),
    "batch": ("running", f"in.csv --output out.csv {PAIR} --prices prices.toml --budget-usd 5"),
    "calibrate": ("judge", f"examples.jsonl {PAIR} --max-harm 0.05 --out calibration.json"),
    "demo": ("judge", "--n 40"),
    "doctor": ("running", "--model openai:gpt-5.1 --model ollama:qwen2.5:3b"),
    "evaluate": ("judge", f"answers.jsonl {PAIR} --price-of-error 0.05 --html report.html"),
    "keys": ("keeping", "create cascade.yaml search-team --day-usd 5 --per-minute 120"),
    "lessons": ("keeping", "delete sqlite:///lessons.db --user ada"),
    "plan": (
        "judge",
        "--input-tokens 400 --output-tokens 100 --small-price 0.1,0.4 --large openai:gpt-5.1",
    ),
    "report": ("keeping", "sqlite:///ledger.db --since 7d --tag team=search --html report.html"),
    "serve": ("running", "cascade.yaml --check"),
    "teach": ("keeping", "export sqlite:///lessons.db --output train.jsonl"),
    "try": ("judge", f"tickets.csv --question text --label category {PAIR} --prices prices.toml"),
}
"""Module and example of each command: only the module of what was typed is loaded."""

EXTRAS = {
    "calibrate": "numpy scipy sklearn threadpoolctl",
    "service": "fastapi sqlalchemy uvicorn yaml",
}
"""Packages by the extra that has them."""

Json = Annotated[bool, typer.Option(help="Print one JSON document.")]
Version = Annotated[bool, typer.Option("--version", help="Print the version and leave.")]
INTERRUPTED = 130  # 128 and the number of the signal
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NEXT = re.compile(r"`((?:cascade|export|iconv|ollama|pip|python) [^`]+)`")


class Interrupted(CascadeError):  # noqa: N818 - so machines read it
    """Ctrl-C, with what is kept."""


def as_json() -> bool:
    """True if a machine reads what is said."""
    typed = [*sys.argv, "--"]
    return "--json" in typed[: typed.index("--")]


def printable(text: str) -> str:
    """A text that cannot act on a terminal, as a model's could."""
    return _CONTROL.sub("\ufffd", text)


def screen() -> Console:
    """Standard error of the moment."""
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(text: str, *, style: str | None = None) -> None:
    """Write a remark to standard error."""
    screen().print(printable(text), style=style, markup=False)


def busy(text: str) -> Status:
    """A line that says what is under way, where a person watches."""
    return screen().status(text)


def give(data: Any, text: str, remark: str = "") -> None:
    """Write a result: for a machine `data`; for a person `text`, raw if piped, and a remark."""
    if as_json():
        from cascade.evaluation.render import to_json  # noqa: PLC0415 - keeps --help fast

        text, remark = to_json(data), ""
    if text:
        if isinstance(sys.stdout, TextIOWrapper):  # which may have no ≈, or half an emoji
            sys.stdout.reconfigure(errors="backslashreplace")
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
        extra = next((e for e, names in EXTRAS.items() if error.name in names.split()), None)
        if extra is None:
            raise
        told = f'{error.name} is not installed: in a clone, `pip install ".[{extra}]"`.'
        return _tell(2, type(error).__name__, told)
    except OSError as error:
        told = ": ".join(str(x) for x in (error.filename, error.strerror or error) if x)
        return _tell(1, type(error).__name__, f"{told}.")
    return _tell(code, "Interrupted", "interrupted") if code == INTERRUPTED else code


def _tell(code: int, kind: str, told: str, ledger: Any = None) -> int:
    """Say what went wrong, what it cost all the same, and what to type next."""
    typed = " ".join(["cascade", *(word for word in sys.argv[1:2] if word in COMMANDS)])
    then = [f"{typed} --help", *_NEXT.findall(told)][-1].rstrip(".")
    if as_json():
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


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """A command as typer takes it, with `--json`. For a parameter of a dataclass stand its fields,
    in a panel that is named by its docstring."""
    signature = inspect.signature(command, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    last = inspect.Parameter("json", keyword, default=False, annotation=Json)
    typed, parameters = [*signature.parameters.values(), last], list[inspect.Parameter]()
    groups: dict[str, Any] = {p.name: p.annotation for p in typed if is_dataclass(p.annotation)}
    for parameter in typed:
        group = groups.get(parameter.name)
        own = inspect.signature(group, eval_str=True).parameters.values() if group else [parameter]
        for option in own:
            kind, about = get_args(option.annotation)
            about = copy(about)  # another group may have the same option
            if group:
                about.rich_help_panel = str(group.__doc__).rstrip(".")
            if kind is bool and about.default is ...:  # else typer adds its opposite
                about.param_decls = (f"--{option.name.replace('_', '-')}",)
            parameters.append(option.replace(annotation=Annotated[kind, about]))

    @wraps(command)
    def run(*, json: bool, **given: Any) -> None:
        del json  # it was read before anything could go wrong
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    vars(run)["__signature__"] = signature.replace(parameters=parameters)
    return run


def program_of(about: str | None, *commands: Callable[..., None]) -> typer.Typer:
    """A program of one command, or a group of several, which are named as their functions."""
    made = typer.Typer(add_completion=False, no_args_is_help=True, help=about)
    for command in commands:
        made.command(command.__name__.rstrip("_"))(spread(command))
    return made


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
        command: Any = getattr(loaded, "try_" if cmd_name == "try" else cmd_name)
        group = command if isinstance(command, typer.Typer) else program_of(None, command)
        made: Any = typer.main.get_command(group)
        made.name, made.epilog = cmd_name, f"Example: cascade {cmd_name} {example}"
        return made

    def main(self, *args: Any, **options: Any) -> Any:
        """Run what was typed, and leave with the command's exit code."""
        options["standalone_mode"] = False
        sys.exit(exit_code_of(lambda: super(Program, self).main(*args, **options)))


app = typer.Typer(
    name="cascade",
    cls=Program,
    help="A small model drafts, its confidence is checked, a large model answers what is doubtful.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(ctx: typer.Context, version: Version = False) -> None:
    if version:
        typer.echo(f"cascade {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:  # `cascade --`
        ctx.fail("Missing command.")
