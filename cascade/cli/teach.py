"""`cascade teach`: training files from lessons, a new model against the old, what it saved."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cascade._masking import mask_keys
from cascade.cli.completing import FORMS, SCORERS, one_of
from cascade.cli.console import err, out, print_json, reports_errors
from cascade.cli.evaluate import need_numbers
from cascade.cli.lessons import Json, Where, addresses_of, with_store
from cascade.cli.report import must_exist, write_page
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.ledger.store import Store
    from cascade.teaching import LessonStore
    from cascade.teaching.clusters import Clusters
    from cascade.teaching.comparing import Comparison
    from cascade.teaching.evaluating import Answered, Questions
    from cascade.teaching.exporting import Exported
    from cascade.teaching.forms import Form
    from cascade.tiers import Tier

T = TypeVar("T")

EXAMPLE = (
    "Example: cascade teach export cascade.yaml --output train.jsonl --evaluation calibration.jsonl"
)

app = typer.Typer(
    no_args_is_help=True,
    help="Teach the small model: write training files, compare models, report what escalates.",
    epilog=EXAMPLE,
)
Evaluation = Annotated[
    list[Path] | None,
    typer.Option(help="Transcripts or examples that may not be trained on; repeatable."),
]


@app.command()
@reports_errors
def export(  # noqa: PLR0913 - the options of a command
    where: Where,
    *,
    output: Annotated[Path, typer.Option(help="The training file; a card is written beside it.")],
    form: Annotated[
        str,
        typer.Option(
            help="messages, prompt_completion or preference.", autocompletion=one_of(FORMS)
        ),
    ] = "messages",
    evaluation: Evaluation = None,
    task: Annotated[str | None, typer.Option(help="Lessons of this task alone.")] = None,
    validation: Annotated[
        float, typer.Option(help="Share of the rows for OUTPUT.validation.")
    ] = 0.1,
    near: Annotated[
        float, typer.Option(help="Jaccard index from which two lessons are duplicates.")
    ] = 0.8,
    ngram: Annotated[
        int, typer.Option(help="Words in a row that may not be shared with the evaluation.")
    ] = 8,
    evaluation_alike: Annotated[
        float, typer.Option(help="Jaccard index from which a question is one of the evaluation.")
    ] = 0.5,
    most_per_group: Annotated[
        int | None, typer.Option(help="Rows of one group of alike questions, at most.")
    ] = None,
    most_per_task: Annotated[int | None, typer.Option(help="Rows of one task, at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of splits, and of what is left out.")] = 0,
    json: Json = False,
) -> None:
    """Write lessons whose terms permit it as chat JSONL, with a data card."""
    need_numbers("teach export")
    from cascade.teaching import LessonSelection  # noqa: PLC0415 - heavy
    from cascade.teaching.card import card_of  # noqa: PLC0415
    from cascade.teaching.exporting import (  # noqa: PLC0415
        ExportOptions,
        evaluation_questions,
    )
    from cascade.teaching.exporting import export as write  # noqa: PLC0415

    options = ExportOptions(
        form=_form(form),
        near=near,
        most_per_group=most_per_group,
        most_per_task=most_per_task,
        validation=validation,
        ngram=ngram,
        evaluation_alike=evaluation_alike,
        seed=seed,
        selection=LessonSelection(task=task),
    )
    questions = evaluation_questions(evaluation or [])
    address, _ = addresses_of(where)
    shown = mask_keys(where)
    done, files = with_store(
        address,
        lambda store: write(
            store,
            output,
            options,
            questions,
            card=lambda done, files: card_of(done, files, shown),
        ),
    )
    _tell_export(done, files, json)
    if not questions:
        err.print("no --evaluation was given: what you evaluate on may be in the file")


def _tell_export(done: Exported, files: Mapping[str, Path], json: bool) -> None:
    removed = {why: n for why, n in done.removed.most_common() if n}
    if json:
        counts = {"train": len(done.train), "validation": len(done.validation)}
        names = {name: str(path) for name, path in files.items()}
        print_json({"lessons": done.lessons, **counts, "removed": removed, "files": names})
        return
    for name, path in files.items():
        n = {"training": len(done.train), "validation": len(done.validation)}.get(name)
        out.print(f"{path}: {name}" + ("" if n is None else f", {n:,} rows"), markup=False)
    for why, n in removed.items():
        err.print(f"left out: {n:,}, {why}", markup=False)


def _form(form: str) -> Form:
    from cascade.teaching.forms import ROWS  # noqa: PLC0415 - heavy

    for known in ROWS:
        if form.replace("-", "_") == known:
            return known
    raise ConfigurationError(f"--form {form}: must be one of {', '.join(ROWS)}.")


@app.command()
@reports_errors
def evaluate(  # noqa: PLR0913 - the options of a command
    where: Where,
    *,
    old: Annotated[str, typer.Option(help="The small model of today.")],
    new: Annotated[str, typer.Option(help="The one to compare with it.")],
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="Transcripts instead of lessons, such as calibration.jsonl; repeatable."),
    ] = None,
    large: Annotated[
        str | None, typer.Option(help="Whose recorded answers are the reference, of transcripts.")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option(help="With costs and audits; a configuration names its own.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Lessons of this task alone.")] = None,
    scorer: Annotated[
        str,
        typer.Option(
            help="How answers are compared: see cascade evaluate.", autocompletion=one_of(SCORERS)
        ),
    ] = "exact",
    threshold: Annotated[
        float, typer.Option(help="Drafts are accepted at this confidence and above.")
    ] = 0.8,
    raw: Annotated[
        bool, typer.Option("--raw", help="The threshold is of raw scores; else fitted anew.")
    ] = False,
    within: Annotated[
        float, typer.Option(help="Quality per request that may be lost against the old one.")
    ] = 0.01,
    max_tokens: Annotated[int | None, typer.Option(help="Limit of the answers' length.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions under way at once.")] = 4,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before money is spent.")] = False,
    json: Json = False,
) -> None:
    """Compare a new small model with the old one, and say whether to switch."""
    need_numbers("teach evaluate")
    if old == new:
        raise ConfigurationError(f"--old and --new are both {old}: name two models.")
    from cascade.evaluation.scorers import get_scorer  # noqa: PLC0415 - heavy
    from cascade.teaching import LessonSelection, evaluating  # noqa: PLC0415
    from cascade.teaching.comparing import compare  # noqa: PLC0415
    from cascade.tiers import Tier  # noqa: PLC0415

    address, known = addresses_of(where)
    models = [Tier(name, max_tokens=max_tokens) for name in (old, new)]
    compared_by = get_scorer(scorer)

    async def gather(store: LessonStore) -> evaluating.Questions:
        if evaluation:
            return await evaluating.from_rows(evaluation, old, large, store)
        selection = LessonSelection(task=task)
        return await _with_ledger(
            ledger or known,
            lambda books: evaluating.from_lessons(store, old, ledger=books, selection=selection),
        )

    questions = with_store(address, gather)
    _confirm(questions, models, yes=yes)
    done = asyncio.run(
        evaluating.answer(questions, models[0], models[1], compared_by, concurrency=concurrency)
    )
    found = compare(
        done.rows, threshold=threshold, way="threshold" if raw else "recalibrated", within=within
    )
    _tell_comparison(found, questions, done, (old, new), json)


def _tell_comparison(
    found: Comparison, questions: Questions, done: Answered, models: tuple[str, str], json: bool
) -> None:
    from cascade.teaching.text import comparison_text  # noqa: PLC0415 - heavy

    old, new = models
    counts = {
        "failures": done.failures,
        "trained": questions.trained,
        "unusable": questions.unusable,
        "spent_usd": done.ledger.cost_usd,
    }
    if json:
        print_json({"old": old, "new": new, **counts, "comparison": found.model_dump()})
        return
    out.print(comparison_text(found, old, new), markup=False)
    remarks = {
        "near to what was trained on, and left out": questions.trained,
        "without an answer to compare with, and left out": questions.unusable,
        "failed, and in no figure": len(done.failures),
    }
    for what, n in remarks.items():
        if n:
            err.print(f"questions: {n:,} {what}", markup=False)


def _confirm(questions: Questions, models: list[Tier], *, yes: bool) -> None:
    """Say what is asked, and ask before a remote model is paid."""
    from cascade.tiers import open_tier  # noqa: PLC0415 - heavy

    n, recorded = len(questions.items), sum(item.old is not None for item in questions.items)
    err.print(f"to be asked: the new model {n:,} questions, the old one {n - recorded:,}")
    asked = models[1:] if recorded == n else models
    if yes or not n or all(open_tier(model).local for model in asked):
        return
    if not sys.stdin.isatty():
        raise ConfigurationError("say --yes to spend this; there is nobody to ask.")
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)


@app.command()
@reports_errors
def status(
    where: Where,
    *,
    ledger: Annotated[
        str | None, typer.Option(help="What it saved is there; a configuration names its own.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what was learned, what may be done with it, and what it saved."""
    need_numbers("teach status")
    from cascade.teaching.status import status_of  # noqa: PLC0415 - heavy
    from cascade.teaching.text import status_text  # noqa: PLC0415

    address, known = addresses_of(where)
    found = with_store(
        address,
        lambda store: _with_ledger(ledger or known, lambda books: status_of(store, books)),
    )
    if json:
        print_json(found)
    else:
        out.print(status_text(found), markup=False)


@app.command()
@reports_errors
def report(
    where: Where,
    *,
    ledger: Annotated[
        str | None, typer.Option(help="What it cost is there; a configuration names its own.")
    ] = None,
    weeks: Annotated[float, typer.Option(min=0.001, help="The last so many weeks.")] = 1.0,
    task: Annotated[str | None, typer.Option(help="Of this task alone.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    json: Json = False,
) -> None:
    """Show which questions escalate most, what they cost, and what teaching them would save."""
    need_numbers("teach report")
    from cascade.teaching.clusters import make_clusters  # noqa: PLC0415 - heavy
    from cascade.teaching.text import clusters_page, clusters_text  # noqa: PLC0415

    address, known = addresses_of(where)
    books_at = ledger or known
    if books_at is None:
        raise ConfigurationError("a report needs the ledger: --ledger sqlite:///ledger.db.")
    if html is not None and not html.parent.is_dir():
        raise ConfigurationError(f"{html} cannot be written: there is no folder {html.parent}.")
    since = datetime.now(UTC) - timedelta(weeks=weeks)

    async def work(store: LessonStore, books: Store | None) -> Clusters:
        assert books is not None
        return await make_clusters(store, books, since=since, task=task)

    found = with_store(
        address, lambda store: _with_ledger(books_at, lambda books: work(store, books))
    )
    if html is not None:
        write_page(html, clusters_page(found))
    if json:
        print_json(found)
        return
    out.print(clusters_text(found), markup=False)
    if html is not None:
        err.print(f"written: {html}", markup=False)


async def _with_ledger(address: str | None, work: Callable[[Store | None], Awaitable[T]]) -> T:
    from cascade.ledger.store import open_store  # noqa: PLC0415 - heavy

    if address is None:
        return await work(None)
    must_exist(address)
    async with open_store(address, read_only=True) as books:
        return await work(books)
