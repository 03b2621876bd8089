"""`cascade batch`: the rows of a file through a cascade."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cascade.cli import options
from cascade.cli.console import busy, fail, print_json, say
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.jobs import Done

EXAMPLE = (
    "Example: cascade batch questions.csv --output answers.csv --small ollama:qwen2.5:3b "
    "--large openai:gpt-5.1 --budget-usd 5"
)


def batch(
    source: Annotated[
        Path, typer.Argument(help="CSV, JSONL or Parquet, or a folder of such files.")
    ],
    *,
    output: Annotated[Path, typer.Option(help="Where the answers go: .csv or .jsonl.")],
    small: options.Small = options.EMBEDDED,
    large: options.Large = None,
    column: Annotated[str | None, typer.Option(help="Column with the questions.")] = None,
    system: options.System = None,
    threshold: options.Threshold = None,
    price_of_error: options.PriceOfError = None,
    calibration: options.Calibration = None,
    prices: options.Prices = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    budget_usd: Annotated[
        Decimal | None, options.dollars("Dollars of the whole job, at most.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Rows under way at once.")] = 16,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="This process, or a Ray cluster.")
    ] = "local",
    provider_batch: Annotated[
        bool,
        typer.Option(help="Ask the large model by its provider's batch API, at half the price."),
    ] = False,
    ledger: options.LedgerUrl = None,
    prefix: Annotated[str, typer.Option(help="Before the names of the columns added.")] = "",
    fresh: Annotated[bool, typer.Option(help="Forget what was done before, and pay anew.")] = False,
    json: options.Json = False,
) -> None:
    """Answer every row of a file. Interrupted, the same command goes on where it was."""
    from cascade import jobs  # noqa: PLC0415 - heavy, keeps --help fast

    if engine == "ray" and (provider_batch or budget_usd is not None):
        raise ConfigurationError(
            "--provider-batch and --budget-usd are of the local engine: leave them or --engine ray "
            "out."
        )
    jobs.check_output(output)
    if source.resolve() in (output.resolve(), output.resolve().parent):
        raise ConfigurationError(
            f"--output {output}: the questions are read from there. Give another place."
        )
    jobs.check_rows(source, column, prefix=prefix)
    with ExitStack() as opened:
        common: dict[str, Any] = {
            "prices": prices,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "calibrator": calibration,
            "threshold": threshold,
            "price_of_error": price_of_error,
        }
        make: Any = partial(options.pair, small=small, large=large, ledger=ledger, **common)
        cascade = make(opened)
        made_with = jobs.made_with(cascade, system=system)
        path = output.with_name(f"{output.name}.journal")
        journal = opened.enter_context(jobs.Journal(path, made_with, fresh=fresh))
        rows = jobs.read_rows(source, column, system)
        if engine == "ray":
            from cascade.jobs.ray_data import run_on_ray  # noqa: PLC0415 - an extra

            done = run_on_ray(make, rows, journal, concurrency=concurrency)
        else:
            run: Any = jobs.run_job
            if provider_batch:
                from cascade.jobs.provider import run_by_batch  # noqa: PLC0415 - seldom

                run = run_by_batch
            limits = {"concurrency": concurrency, "budget_usd": budget_usd}
            done = asyncio.run(_watched(partial(run, cascade, rows, journal, **limits)))
        again = jobs.read_rows(source, column, system)
        written = jobs.write_output(output, again, journal, prefix=prefix)
    _report(done, output, written, as_json=json)


async def _watched(run: Callable[..., Awaitable[Done]]) -> Done:
    """A job that shows how far it is, and that Ctrl-C tells to stop."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for word in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(word, stop.set)
    try:
        with busy() as tell:
            return await run(
                stop=stop,
                progress=lambda done: tell(
                    f"{done.rows:,} rows, {done.escalated:,} escalated, {done.failed:,} failed, "
                    f"${done.spent_usd:.4f}"
                ),
            )
    finally:
        for word in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(word)


def _report(done: Done, output: Path, written: int, *, as_json: bool) -> None:
    from cascade.jobs.engine import INTERRUPTED  # noqa: PLC0415 - heavy

    spent = None if done.unknown and not done.spent_usd else done.spent_usd
    if as_json:
        print_json({**asdict(done), "spent_usd": spent, "written": written})
    else:
        known = "" if not done.unknown else f", {done.unknown:,} at an unknown cost"
        paid = "an unknown amount" if spent is None else f"${spent:.6f}"
        sign = "≈ " if done.estimated else ""
        saved = "unknown" if done.saved_usd is None else f"{sign}${done.saved_usd:.6f}"
        say(
            f"{output}: {written:,} rows; {done.answered:,} answered now, {done.resumed:,} before, "
            f"{done.escalated:,} escalated, {done.failed:,} failed\n"
            f"spent {paid}{known}; saved {saved}"
        )
        if done.waiting:
            say(f"{done.waiting:,} rows wait for their provider: run the same command again later.")
    if done.stopped is not None:
        code = 130 if done.stopped == INTERRUPTED else 1
        fail(f"{done.stopped}. Run the same command again to go on.", code)
    if done.failed:
        fail(f"{done.failed:,} rows failed; run the same command again to ask them anew.", 1)
