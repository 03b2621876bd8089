"""`cascade lessons` and `cascade teach`: the large model's answers, kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer import Argument, Option

from cascade.cli.console import give
from cascade.cli.options import Count, Text, must_be_file, must_be_there, spread, using
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.teaching import LessonStore

T = TypeVar("T")

Where = Annotated[str, Argument(help="Address: sqlite:///lessons.db, postgresql://…")]

KEPT = "Delete lessons, and state what may be done with answers."
TRAINED_ON = "Write training files from lessons, and say what there is to train on."

lessons = typer.Typer(no_args_is_help=True, help=KEPT)
teach = typer.Typer(no_args_is_help=True, help=TRAINED_ON)


@lessons.command()
@spread
def delete(
    where: Where,
    *,
    user: Annotated[Text, Option(help="Of this user, by the tag `user`.")] = None,
    tenant: Annotated[Text, Option(help="Of this tenant, by tag or key.")] = None,
    run: Annotated[Text, Option(help="Of this run.")] = None,
    older_than: Annotated[Count, Option(min=1, max=36_500, help="Than so many days.")] = None,
    everything: Annotated[bool, Option("--all", help="All lessons there are.")] = False,
) -> None:
    """Delete lessons and verdicts for good, also from SQLite's own files."""
    from cascade.teaching import LessonSelection  # noqa: PLC0415 - SQLAlchemy

    until = None if older_than is None else datetime.now(UTC) - timedelta(days=older_than)
    meant = LessonSelection(user=user, tenant=tenant, run_id=run, until=until)
    gone = _with_lessons(where, lambda store: store.delete(meant, everything=everything))
    left = "the database's files may still hold it, until PostgreSQL's next vacuum, or as long as "
    left += "another process reads SQLite's; then delete it again."
    give(gone, f"deleted: {gone.lessons:,} lessons", "" if gone.scrubbed else left)


@lessons.command(
    epilog="Example: cascade lessons terms sqlite:///lessons.db 'ollama:*' --may-train "
    "--source https://ollama.com/library/qwen2.5"
)
@spread
def terms(
    where: Where,
    model: Annotated[str | None, Argument(help="provider:name, or provider:*.")] = None,
    *,
    may_train: Annotated[
        bool | None, Option("--may-train/--no-train", help="Whether to train on answers.")
    ] = None,
    source: Annotated[str, Option(help="Where that is written.")] = "",
) -> None:
    """Show what was stated of models, or state it of one, as of today."""
    from cascade.teaching import Terms  # noqa: PLC0415 - SQLAlchemy

    if (model is None) != (may_train is None):
        raise ConfigurationError("terms are stated of a MODEL, with --may-train or --no-train.")

    async def work(store: LessonStore) -> dict[str, Terms]:
        if model is not None:
            today = date.today()  # noqa: DTZ011 - the user's day
            await store.state_terms(model, Terms(may_train=may_train, source=source, as_of=today))
        return await store.terms()

    found, lines = _with_lessons(where, work), []
    for name, each in found.items():
        said = {None: "not stated", True: "allowed", False: "forbidden"}[each.may_train]
        lines.append(f"{name}: training {said}, as of {each.as_of} {each.source}")
    give(found, "\n".join(lines))


@teach.command()
@spread
def export(
    where: Where,
    *,
    output: Annotated[Path, Option(help="The training file, JSON lines.")],
    form: Annotated[
        Literal["messages", "prompt_completion", "preference"], Option(help="Its columns.")
    ] = "messages",
    evaluation: Annotated[
        list[Path] | None, Option(help="Questions not to be trained on; repeatable.")
    ] = None,
    task: Annotated[Text, Option(help="Of this task.")] = None,
    validation: Annotated[float, Option(help="Share that a second file gets.")] = 0.1,
) -> None:
    """Write lessons whose terms permit it as chats, without duplicates and evaluation questions."""
    from cascade.teaching import exporting  # noqa: PLC0415 - heavy

    must_be_file("--output", output)
    asked = exporting.evaluation_questions(evaluation or ())
    how: dict[str, Any] = {"form": form, "validation": validation, "task": task}
    done = _with_lessons(where, partial(exporting.export, path=output, evaluation=asked, **how))
    remarks = [f"left out: {n:,}, {why}" for why, n in done.removed.most_common()]
    if not asked:
        remarks.append("no --evaluation was given: what you evaluate on may be in the file.")
    rows = "\n".join(f"{path}: {n:,} rows" for path, n in done.rows.items())
    give(done, rows, "\n".join(remarks))


@teach.command()
@spread
def status(where: Where) -> None:
    """Say what lessons there are, and what may be done with them."""
    from cascade.teaching.exporting import status_of  # noqa: PLC0415 - heavy

    found = _with_lessons(where, status_of)
    judged = f"said right {found.said_right:,}, wrong {found.said_wrong:,}"
    lines = [f"{found.lessons:,} lessons; {judged}"]
    for model, counts in found.models.items():
        lines.append(f"{model}: " + ", ".join(f"{what} {n:,}" for what, n in counts.items()))
    give(found, "\n".join(lines))


def _with_lessons(where: str, work: Callable[[LessonStore], Awaitable[T]]) -> T:
    from cascade.teaching import open_lessons  # noqa: PLC0415 - SQLAlchemy

    must_be_there(where)
    return using(open_lessons(where), work)
