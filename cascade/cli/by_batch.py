"""`cascade batch --large-batch`: the large model by the provider's batch API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade.cli.console import err, watched
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from cascade.api import Cascade
    from cascade.jobs import Done, Journal, Row
    from cascade.jobs.provider import AtProvider

__all__ = ["LargeBatch", "RestAtOnce", "answering_by_batch", "clear", "said", "tell_waiting"]

LargeBatch = Annotated[
    bool,
    typer.Option(
        "--large-batch",
        help="Ask the large model by the provider's batch API: for part of the price, and up to "
        "24 hours later.",
    ),
]
RestAtOnce = Annotated[
    bool,
    typer.Option(
        "--rest-at-once",
        help="With --large-batch: what a batch leaves unanswered is asked at once, at full price.",
    ),
]


def folder_of(output: Path) -> Path:
    """Where batches are kept that are not done with."""
    return output.with_name(output.name + ".batches")


def clear(output: Path) -> None:
    """Make sure that nothing is under way that a job from the beginning would pay for again.

    Raises:
        ConfigurationError: something is.
    """
    folder = folder_of(output)
    if any(folder.glob("*.json")):
        raise ConfigurationError(
            f"--fresh, but {folder} has batches that were sent, and are paid for whoever reads "
            "their answers: run without --fresh, or cancel them at the provider and remove the "
            "folder."
        )


def answering_by_batch(
    cascade: Cascade,
    read: Callable[[], Iterator[Row]],
    journal: Journal,
    output: Path,
    *,
    rest_at_once: bool,
) -> Callable[..., Coroutine[Any, Any, Done]]:
    """What answers the rows; without a progress bar it says once what it waits for."""
    from cascade.jobs.provider import Terms, run_by_batch  # noqa: PLC0415 - heavy

    async def answer(*, progress: Callable[[Done], None], **how: Any) -> Done:
        told = watched()

        def show(done: Done) -> None:
            nonlocal told
            progress(done)
            if not told and said(done) is not None:
                told = True
                tell_waiting(done)

        terms, folder = Terms(ask_at_once=rest_at_once), folder_of(output)
        return await run_by_batch(cascade, read, journal, folder, terms=terms, progress=show, **how)

    return answer


def said(done: Done) -> str | None:
    """What is waited for, in words; None where nothing is at the provider."""
    seen: AtProvider | None = getattr(done, "at_provider", None)
    if seen is None:
        return None
    until = "" if seen.until is None else f" (until {seen.until:%Y-%m-%d %H:%M} UTC)"
    return (
        f"{seen.answered} of {seen.requests} rows answered in {seen.batches} batches, which may "
        f"take 24 hours{until}"
    )


def tell_waiting(done: Done) -> None:
    """Say what is at the provider."""
    waits = said(done)
    if waits is not None:
        err.print(f"at the provider: {waits}", markup=False)
