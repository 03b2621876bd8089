"""`cascade teach`: training files from lessons, a new model against the old, what it saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cascade._masking import mask_keys
from cascade.cli.console import err, out, print_json, reports_errors
from cascade.cli.lessons import Json, Where, addresses_of, with_store
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.teaching.forms import Form

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
        str, typer.Option(help="messages, prompt_completion or preference.")
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
    if not questions:
        err.print("no --evaluation was given: what you evaluate on may be in the file")


def _form(form: str) -> Form:
    from cascade.teaching.forms import ROWS  # noqa: PLC0415 - heavy

    for known in ROWS:
        if form.replace("-", "_") == known:
            return known
    raise ConfigurationError(f"--form {form}: must be one of {', '.join(ROWS)}.")
