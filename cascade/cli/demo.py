"""`cascade demo`: a real small model and a larger one on questions with known answers."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from cascade.cli.console import out, print_json, reports_errors, screen, spending, watched

EXAMPLE = "Example: cascade demo --n 40 --large ollama:qwen2.5:3b"


@reports_errors
def demo(
    *,
    n: Annotated[
        int | None, typer.Option(help="How many questions; all of them if not given.")
    ] = None,
    large: Annotated[
        str | None, typer.Option(help="The large model, live; recorded answers if not given.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Use a large model that is found: Ollama, or a key.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Ask a live large model everything: its accuracy, paid."),
    ] = False,
    threshold: Annotated[
        float, typer.Option(help="Accept drafts at this confidence and above.")
    ] = 0.8,
    per_hour: Annotated[
        float, typer.Option(help="Dollars per busy hour of the small model's machine.")
    ] = 0.05,
    large_price: Annotated[
        str | None, typer.Option(help="IN,OUT: dollars per 1M tokens of the large model.")
    ] = None,
    to: Annotated[Path, typer.Option("--out", help="Folder of the page and the picture.")] = Path(
        "demo-output"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Watch a cascade work: accuracy, escalation, what each node cost and saved."""
    from cascade.demo import DemoOptions, run_demo  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.demo.console import show, watching  # noqa: PLC0415

    options = DemoOptions(
        n=n,
        large=large,
        live=live,
        compare=compare,
        threshold=threshold,
        per_hour=Decimal(str(per_hour)),
        large_price=large_price,
        out=to,
    )
    with spending(), watching(screen(), live=watched()) as watcher:
        outcome = asyncio.run(run_demo(options, watcher))
    if json:
        print_json(outcome.figures())
    else:
        show(outcome, out)
