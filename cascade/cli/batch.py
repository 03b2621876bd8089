"""`cascade batch`: the rows of a file through a cascade."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cascade.cli.console import fail, print_json, reports_errors, say, streams, watched
from cascade.cli.options import (
    EMBEDDED,
    Calibration,
    Json,
    Large,
    LedgerUrl,
    MaxTokens,
    PriceOfError,
    Prices,
    Small,
    System,
    Temperature,
    Threshold,
    pair,
)
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.jobs import Done

EXAMPLE = (
    "Example: cascade batch questions.csv --output answers.csv --small ollama:qwen2.5:3b "
    "--large openai:gpt-5.1 --budget-usd 5"
)


@reports_errors
def batch(
    source: Annotated[
        Path, typer.Argument(help="CSV, JSONL or Parquet, or a folder of such files.")
    ],
    *,
    output: Annotated[Path, typer.Option(help="Where the answers go: .csv, .jsonl, .parquet.")],
    small: Small = EMBEDDED,
    large: Large = None,
    column: Annotated[str | None, typer.Option(help="Column with the questions.")] = None,
    system: System = None,
    threshold: Threshold = None,
    price_of_error: PriceOfError = None,
    calibration: Calibration = None,
    prices: Prices = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    budget_usd: Annotated[
        str | None, typer.Option("--budget-usd", help="Dollars of the whole job, at most.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Rows under way at once.")] = 16,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="This process, or a Ray cluster.")
    ] = "local",
    provider_batch: Annotated[
        bool,
        typer.Option(help="Ask the large model by its provider's batch API, at half the price."),
    ] = False,
    ledger: LedgerUrl = None,
    prefix: Annotated[str, typer.Option(help="Before the names of the columns added.")] = "",
    run_ids: Annotated[bool, typer.Option(help="Add run_id, the key of the ledger.")] = False,
    fresh: Annotated[bool, typer.Option(help="Forget what was done before, and pay anew.")] = False,
    json: Json = False,
) -> None:
    """Answer every row of a file. Interrupted, the same command goes on where it was."""
    from cascade.jobs import (  # noqa: PLC0415 - heavy, keeps --help fast
        Journal,
        check_columns,
        first_row,
        made_with,
        read_rows,
        write_output,
    )
    from cascade.jobs.rows import kind_of  # noqa: PLC0415

    kind_of(output)
    check_columns(first_row(source, column).columns, prefix)
    budget = _dollars(budget_usd)
    if provider_batch and engine == "ray":
        raise ConfigurationError("--provider-batch and --engine ray: give one of them.")
    if budget is not None and engine == "ray":
        raise ConfigurationError(
            f"--budget-usd {budget_usd} is kept by the local engine alone: leave it or --engine "
            "ray out."
        )
    path = output.with_name(f"{output.name}.journal")
    if fresh:
        path.unlink(missing_ok=True)
    with ExitStack() as opened:
        options: dict[str, Any] = {
            "prices": prices,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "calibrator": calibration,
            "threshold": threshold,
            "price_of_error": price_of_error,
        }
        cascade = pair(opened, small, large, ledger=ledger, **options)
        journal = opened.enter_context(Journal(path, made_with(cascade, system=system)))
        rows = read_rows(source, column, system)
        if engine == "ray":
            from cascade.jobs.ray_data import run_on_ray  # noqa: PLC0415 - an extra

            recipe = {"small": small, "large": large, "ledger": ledger, **options}
            done = run_on_ray(recipe, cascade, rows, journal, concurrency=concurrency)
        else:
            done = asyncio.run(
                _run(cascade, rows, journal, concurrency, budget, provider_batch, path)
            )
        again = read_rows(source, column, system)
        written = write_output(output, again, journal, prefix=prefix, run_ids=run_ids)
    _report(done, output, written, as_json=json)


async def _run(
    cascade: Cascade,
    rows: Any,
    journal: Any,
    concurrency: int,
    budget: Decimal | None,
    provider_batch: bool,
    path: Path,
) -> Done:
    from cascade.jobs import run_job  # noqa: PLC0415 - heavy, keeps --help fast

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for word in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(word, stop.set)
    progress = _Progress()
    options: dict[str, Any] = {
        "concurrency": concurrency,
        "budget_usd": budget,
        "progress": progress,
        "stop": stop,
    }
    try:
        if provider_batch:
            from cascade.jobs.provider import run_by_batch  # noqa: PLC0415 - seldom

            return await run_by_batch(cascade, rows, journal, path=path, **options)
        return await run_job(cascade, rows, journal, **options)
    finally:
        progress.end()
        for word in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(word)


class _Progress:
    """Line on a terminal that says how far a job is."""

    def __init__(self) -> None:
        self._status = streams.err.status("") if watched() else None
        if self._status is not None:
            self._status.start()

    def __call__(self, done: Done) -> None:
        if self._status is not None:
            self._status.update(
                f"{done.rows:,} rows, {done.escalated:,} escalated, {done.failed:,} failed, "
                f"${done.spent_usd:.4f}"
            )

    def end(self) -> None:
        """Take the line away."""
        if self._status is not None:
            self._status.stop()


def _report(done: Done, output: Path, written: int, *, as_json: bool) -> None:
    stopped = done.stopped is not None
    spent = None if done.unknown and not done.spent_usd else done.spent_usd
    if as_json:
        fields = (
            "resumed",
            "answered",
            "failed",
            "waiting",
            "escalated",
            "spent_usd",
            "before_usd",
            "saved_usd",
            "unknown",
            "stopped",
        )
        told = {name: getattr(done, name) for name in fields}
        print_json({**told, "spent_usd": spent, "written": written})
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
    if stopped:
        code = 130 if done.stopped == "it was interrupted" else 1
        fail(f"{done.stopped}. Run the same command again to go on.", code)
    if done.failed:
        fail(f"{done.failed:,} rows failed; run the same command again to ask them anew.", 1)


def _dollars(text: str | None) -> Decimal | None:
    try:
        amount = None if text is None else Decimal(text)
    except InvalidOperation:
        raise ConfigurationError(f"--budget-usd {text!r}: give dollars, such as 5.") from None
    if amount is not None and not (amount.is_finite() and amount > 0):
        raise ConfigurationError(f"--budget-usd {text}: dollars, above 0.")
    return amount
