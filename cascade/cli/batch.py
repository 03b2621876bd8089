"""`cascade batch`: a file of questions through a cascade."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict
from decimal import Decimal
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cascade._words import counted
from cascade.cli.by_batch import (
    LargeBatch,
    RestAtOnce,
    answering_by_batch,
    clear,
    said,
    tell_waiting,
)
from cascade.cli.completing import EMBEDDED, SCORERS, ledgers, one_of
from cascade.cli.console import err, fail, out, print_json, reports_errors, spending, watched
from cascade.cli.pairing import Large, PriceOfError, Small, Threshold
from cascade.cli.recipe import Recipe, refuse_unless
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.api import Cascade
    from cascade.jobs import Done
    from cascade.jobs.plan import PlanDone

EXAMPLE = (
    "Example: cascade batch questions.csv --output answers.csv --small ollama:qwen2.5:3b "
    "--large openai:gpt-5.1 --budget-usd 5"
)


class Engine(StrEnum):
    """Where rows are asked."""

    LOCAL = "local"
    RAY = "ray"


@reports_errors
def batch(  # noqa: PLR0913 - the options of a command
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(help="A .jsonl, .csv or .parquet file, or a folder of them.")
    ],
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Where the answers go; its end says in what form."),
    ],
    small: Small = EMBEDDED,
    large: Large = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Take a cascade of this configuration of `cascade serve` instead."),
    ] = None,
    cascade: Annotated[
        str | None, typer.Option(help="Which one of --config, where it has several.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="The column with the questions; else messages, question or prompt."),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="A system message before each question.")
    ] = None,
    threshold: Threshold = None,
    price_of_error: PriceOfError = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A calibration of `cascade calibrate`.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="A file of prices, .toml or .json; see docs/prices.md.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Limit of an answer's length.")] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Rows under way at once; on Ray, in each replica.")
    ] = 16,
    engine: Annotated[
        Engine, typer.Option(help="Where rows are asked: in this process, or on a Ray cluster.")
    ] = Engine.LOCAL,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on Ray; else as many as this machine has cores for."),
    ] = None,
    replica_cpus: Annotated[
        float, typer.Option(help="Cores that Ray keeps for each of them.")
    ] = 1.0,
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster; else RAY_ADDRESS, else one on this machine.")
    ] = None,
    budget_usd: Annotated[
        float | None,
        typer.Option(min=0, help="Dollars of the whole job, with what earlier runs of it spent."),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Draft all rows first, then escalate those that gain most per dollar."
        ),
    ] = False,
    sample: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --plan: so many rows are asked of both models, to calibrate on (where there "
            "is no calibration) and to bound what is lost.",
        ),
    ] = 0,
    scorer: Annotated[
        str,
        typer.Option(
            help="With --sample: says whether both answers agree; exact, numeric, …",
            autocompletion=one_of(SCORERS),
        ),
    ] = "exact",
    large_batch: LargeBatch = False,
    rest_at_once: RestAtOnce = False,
    ledger: Annotated[
        str | None,
        typer.Option(
            help="A ledger: sqlite:///ledger.db or postgresql://…", autocompletion=ledgers
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Before the names of the columns added.")] = "",
    run_ids: Annotated[
        bool, typer.Option("--run-ids", help="Add each row's run_id in the ledger.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask everything anew, and pay for it again.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the totals as one document.")] = False,
) -> None:
    """Answer every row of a file, in its order; the same command goes on after an interrupt.

    What is done stands in OUTPUT.journal, a line per row. Rows that failed are asked again.
    """
    from cascade.jobs import Journal, write_output  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.jobs.output import check_columns  # noqa: PLC0415
    from cascade.jobs.parts import discard_parts  # noqa: PLC0415
    from cascade.jobs.plan import plan_job  # noqa: PLC0415
    from cascade.jobs.rows import first_row, kind_of, read_rows  # noqa: PLC0415

    recipe = Recipe.of(context)
    _refuse_ignored(context, recipe)
    kind_of(output)
    if output.resolve() == source.resolve() or output.resolve().parent == source.resolve():
        raise ConfigurationError(
            f"--output {output} is a part of the input: the next run would take it for questions."
        )
    check_columns(first_row(source, column).columns, prefix, planned=plan)
    with ExitStack() as opened:
        made = opened.enter_context(recipe())
        path = output.with_name(output.name + ".journal")
        if fresh:
            clear(output)
            path.unlink(missing_ok=True)
            discard_parts(path)
        journal = opened.enter_context(Journal(path, _depends(context, made)))
        read = partial(read_rows, source, column, system)
        answering: Any = partial(_asking(context, recipe, made), read(), journal)
        if plan:
            answering = partial(plan_job, made, read, journal, sample=sample, scorer=scorer)
        if large_batch:
            answering = answering_by_batch(made, read, journal, output, rest_at_once=rest_at_once)
        budget = None if budget_usd is None else Decimal(str(budget_usd))
        answering = partial(answering, name=output.stem, concurrency=concurrency, budget_usd=budget)
        with spending():
            done, code = _run(source, answering)
        written = write_output(
            output, read(), journal, prefix=prefix, run_ids=run_ids, planned=plan
        )
    _tell(done, written, output, code, as_json=json)


def _refuse_ignored(context: typer.Context, recipe: Recipe) -> None:
    """An option that the other way of naming a cascade, or another way of asking, would ignore."""
    recipe.refuse_ignored(context)
    given = context.params
    refuse_unless(given["plan"], context, "sample", needed="--plan")
    refuse_unless(given["sample"] > 0, context, "scorer", needed="--sample")
    refuse_unless(given["large_batch"], context, "rest_at_once", needed="--large-batch")
    if given["plan"] and given["large_batch"]:
        raise ConfigurationError(
            "--plan and --large-batch were both given: each of them waits with the large model in "
            "another way. Give one."
        )
    for name in ("replicas", "replica_cpus", "ray_address"):
        refuse_unless(given["engine"] is Engine.RAY, context, name, needed="--engine ray")
    for name in ("plan", "large_batch"):
        if given[name] and given["engine"] is Engine.RAY:
            option = "--" + name.replace("_", "-")
            raise ConfigurationError(f"{option} is done in one process: leave --engine ray out.")


def _depends(context: typer.Context, made: Cascade) -> dict[str, Any]:
    """What the answers depend on besides the questions, for the journal."""
    from cascade.jobs import made_with  # noqa: PLC0415 - heavy

    given, depends = context.params, made_with(made)
    if given["plan"]:
        from cascade.jobs.plan import planned_with  # noqa: PLC0415 - heavy

        return planned_with(depends, given["sample"], given["scorer"])
    if given["large_batch"]:
        from cascade.jobs.provider import made_by_batch  # noqa: PLC0415 - heavy, needs openai

        return made_by_batch(depends)
    return depends


def _asking(context: typer.Context, recipe: Recipe, made: Cascade) -> Callable[..., Any]:
    """What asks row after row: this process, or replicas on Ray."""
    given = context.params
    if given["engine"] is Engine.LOCAL:
        from cascade.jobs import run_job  # noqa: PLC0415 - heavy

        return partial(run_job, made)
    from cascade.jobs.ray_cluster import require_ray  # noqa: PLC0415

    require_ray()
    from cascade.jobs.ray_engine import run_job_on_ray  # noqa: PLC0415 - heavy

    options = {"replicas": given["replicas"], "replica_cpus": given["replica_cpus"]}
    return partial(run_job_on_ray, recipe, address=given["ray_address"], **options)


def _run(source: Path, answering: Callable[..., Coroutine[Any, Any, Done]]) -> tuple[Done, int]:
    """What was done, and the exit code if not all of it was."""
    from cascade.jobs import count_rows  # noqa: PLC0415 - heavy

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = Progress(*columns, TimeRemainingColumn(), console=err, disable=not watched())

    async def run() -> tuple[Done, int]:
        stop = asyncio.Event()
        # Ray tells on stdout what has happened to its processes, where the answer is due.
        with _interrupts(stop) as told, shown, redirect_stdout(sys.stderr):
            task = shown.add_task("rows", total=count_rows(source) if watched() else None)

            def show(done: Done) -> None:
                spent = done.before_usd + done.spent_usd
                drafted = getattr(done, "drafted", None)
                words = "rows" if drafted is None else f"{drafted} drafted, rows"
                words = said(done) or words
                shown.update(task, completed=done.rows, description=f"{words}, ${spent:.4f} spent")

            done = await answering(progress=show, stop=stop)
            return done, 128 + told[0] if told else 1

    return asyncio.run(run())


@contextmanager
def _interrupts(stop: asyncio.Event) -> Iterator[list[int]]:
    """The first Ctrl-C (or SIGTERM) lets what is under way end; the second one does not.

    What was told is in the list.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    heard = (signal.SIGINT, signal.SIGTERM)
    told: list[int] = []

    def interrupted(number: int) -> None:
        told.append(number)
        if stop.is_set() and task is not None:
            task.cancel()
            return
        stop.set()
        err.print("ending the rows that are under way; once more to leave them")

    try:
        for number in heard:
            loop.add_signal_handler(number, interrupted, number)
    except (NotImplementedError, RuntimeError):  # Windows, or not in the main thread
        yield told
        return
    try:
        yield told
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


def _tell_plan(done: PlanDone) -> None:
    err.print(
        f"expected to set right: {done.gain:.1f} answers, where no choice of rows sets right more "
        f"than {done.most_gain:.1f} for the money; escalating all the others: "
        f"{done.gain_left:.1f} more",
        markup=False,
    )
    if done.loss_bound is not None:
        err.print(
            f"accepted though the large model says otherwise: {done.loss:.1%} of a sample of "
            f"{done.sampled} rows, at most {done.loss_bound:.1%} of all (95 %)",
            markup=False,
        )


def _tell(done: Done, written: int, output: Path, code: int, *, as_json: bool) -> None:
    from cascade.jobs.plan import PlanDone  # noqa: PLC0415 - heavy

    if as_json:
        print_json({"rows": done.rows, **asdict(done), "output": output, "written": written})
    else:
        out.print(f"{output}: {written} rows", markup=False)
    err.print(
        f"answered: {done.answered}, of them escalated: {done.escalated}; failed: {done.failed}; "
        f"answered before: {done.resumed}",
        markup=False,
    )
    if done.lost:
        err.print(f"asked again because a replica ended while it had them under way: {done.lost}")
    spent = f"spent: ${done.spent_usd:.6f}"
    if done.unknown:
        spent += f", and what {counted(done.unknown, 'row')} cost that nobody knows"
    saved = "unknown" if done.saved_usd is None else f"${done.saved_usd:.6f}"
    err.print(f"{spent}; saved against the large model alone: {saved}", markup=False)
    if isinstance(done, PlanDone) and done.stopped is None:
        _tell_plan(done)
    tell_waiting(done)
    if done.stopped is not None:
        fail(f"{done.stopped}. Run the same command again to go on.", code)
    if done.failed:
        fail(f"rows that failed: {done.failed}; see the column `error`. Run again to ask them.", 1)
