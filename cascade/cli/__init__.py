"""The command line, `cascade`."""

from __future__ import annotations

from typing import Annotated

import typer

from cascade._version import __version__
from cascade.cli import (
    ask,
    batch,
    calibrate,
    calibration,
    demo,
    doctor,
    evaluate,
    keys,
    lessons,
    plan,
    program,
    report,
    scale,
    serve,
    shadow,
    teach,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="cascade",
    cls=program.Program,
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


app.command(epilog=ask.EXAMPLE)(ask.ask)
app.command(epilog=batch.EXAMPLE)(batch.batch)
app.command(epilog=calibrate.EXAMPLE)(calibrate.calibrate)
app.command(epilog=demo.EXAMPLE)(demo.demo)
app.command(epilog=doctor.EXAMPLE)(doctor.doctor)
app.command(epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command(epilog=plan.EXAMPLE)(plan.plan)
app.command(epilog=report.EXAMPLE)(report.report)
app.command(epilog=scale.EXAMPLE)(scale.scale)
app.command(epilog=serve.EXAMPLE)(serve.serve)
app.command(epilog=shadow.EXAMPLE)(shadow.shadow)
app.add_typer(calibration.app, name="calibration")
app.add_typer(keys.app, name="keys")
app.add_typer(lessons.app, name="lessons")
app.add_typer(teach.app, name="teach")


def main() -> None:
    """Run the command line."""
    app()
