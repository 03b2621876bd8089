"""`cascade lessons`: what was kept of escalated questions, and the terms of models' answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cascade._words import counted
from cascade.cli.completing import configurations
from cascade.cli.console import err, out, print_json, reports_errors
from cascade.cli.report import must_exist
from cascade.cli.serve import require_service
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.ledger.store import Selection
    from cascade.teaching import Deleted, Lesson, LessonSelection, LessonStore

T = TypeVar("T")

EXAMPLE = "Example: cascade lessons delete cascade.yaml --user ada"
Where = Annotated[
    str,
    typer.Argument(
        help="The service's configuration, or the address of the lessons.",
        autocompletion=configurations,
    ),
]
User = Annotated[str | None, typer.Option(help="Of this user, the tag `user` of a run.")]
Tenant = Annotated[
    str | None, typer.Option(help="Of this tenant, the tag `tenant`, else the id of a key.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

app = typer.Typer(
    no_args_is_help=True,
    help="Show and delete lessons, and state what may be done with models' answers.",
    epilog=EXAMPLE,
)


@app.command(name="list")
@reports_errors
def list_lessons(
    where: Where,
    *,
    user: User = None,
    tenant: Tenant = None,
    run: Annotated[str | None, typer.Option(help="Of this run.")] = None,
    task: Annotated[str | None, typer.Option(help="Of this task.")] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="The last so many days.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the oldest first.")] = 100,
    json: Json = False,
) -> None:
    """Show lessons; with --json whole, with all that was said of them."""
    since = None if days is None else datetime.now(UTC) - timedelta(days=days)
    selection = _selection(user=user, tenant=tenant, run_id=run, task=task, since=since)
    address, _ = addresses_of(where)

    async def read(store: LessonStore) -> list[Lesson]:
        found: list[Lesson] = []
        async for lesson in store.lessons(selection):
            found.append(lesson)
            if len(found) == limit:
                break
        return found

    lessons = with_store(address, read)
    if json:
        print_json([lesson.model_dump(mode="json") for lesson in lessons])
        return
    for lesson in lessons:
        out.print(_line(lesson), markup=False, soft_wrap=True)


@app.command()
@reports_errors
def delete(
    where: Where,
    *,
    user: User = None,
    tenant: Tenant = None,
    run: Annotated[str | None, typer.Option(help="Of this run.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Lessons older than this.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All lessons there are.")] = False,
    ledger: Annotated[
        str | None,
        typer.Option(help="A ledger whose entries are deleted too; a configuration names its own."),
    ] = None,
    keep_ledger: Annotated[
        bool, typer.Option("--keep-ledger", help="Leave the configuration's ledger as it is.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete lessons and verdicts for good; with --user, --tenant or --run the ledger's, too."""
    whose = [name for name in (user, tenant, run) if name is not None]
    if bool(whose) + (older_than is not None) + everything != 1:
        raise ConfigurationError(
            "say what to delete: --user, --tenant and --run, which may go together, or "
            "--older-than, or --all."
        )
    if ledger is not None and not whose:
        raise ConfigurationError("--ledger goes with --user, --tenant or --run.")
    if ledger is not None and keep_ledger:
        raise ConfigurationError("give --ledger or --keep-ledger, not both.")
    address, known = addresses_of(where)
    of_ledger = ledger if ledger is not None else None if keep_ledger or not whose else known
    if of_ledger is not None:
        must_exist(of_ledger)  # before anything is deleted
    age = None if older_than is None else timedelta(days=older_than)
    selection = None if age is not None else _selection(user=user, tenant=tenant, run_id=run)
    gone = with_store(
        address, lambda store: store.delete(selection, older_than=age, everything=everything)
    )
    entries, scrubbed = 0, gone.scrubbed
    for entry_selection in _of_ledger(user, tenant, run):
        if of_ledger is not None:
            n, clean = _erase(of_ledger, entry_selection)
            entries, scrubbed = entries + n, scrubbed and clean
    _tell(gone, entries, of_ledger is not None, scrubbed, json)


@app.command()
@reports_errors
def terms(
    where: Where,
    model: Annotated[
        str | None, typer.Argument(help="provider:name, or provider:* for all of a provider.")
    ] = None,
    *,
    may_train: Annotated[
        bool | None,
        typer.Option("--may-train/--no-train", help="Whether models may be trained on answers."),
    ] = None,
    remember: Annotated[
        bool,
        typer.Option("--may-remember/--no-remember", help="Whether they may be shown as examples."),
    ] = True,
    source: Annotated[str, typer.Option(help="Where that is written.")] = "",
    as_of: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="When it was read; today if not.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what was stated of models, or state it of one."""
    from cascade.teaching import Terms  # noqa: PLC0415 - heavy

    address, _ = addresses_of(where)
    if model is not None:
        day = date.today() if as_of is None else as_of.date()  # noqa: DTZ011 - of who says it
        stated = Terms(may_train=may_train, may_remember=remember, source=source, as_of=day)
        with_store(address, lambda store: store.state_terms(model, stated))
    found = with_store(address, lambda store: store.terms())
    if json:
        print_json({name: terms.model_dump(mode="json") for name, terms in found.items()})
        return
    for name, kept in found.items():
        trains = {None: "not stated", True: "allowed", False: "forbidden"}[kept.may_train]
        remembers = "allowed" if kept.may_remember else "forbidden"
        where_from = f"; {kept.source}" if kept.source else ""
        day_of = f" ({kept.as_of})" if kept.as_of else ""
        said = f"{name}: training {trains}, examples {remembers}{where_from}{day_of}"
        out.print(said, markup=False, soft_wrap=True)


def _selection(**conditions: object) -> LessonSelection:
    from cascade.teaching import LessonSelection  # noqa: PLC0415 - heavy

    return LessonSelection(**conditions)  # type: ignore[arg-type]


def _of_ledger(user: str | None, tenant: str | None, run: str | None) -> list[Selection]:
    """The entries of the same user, tenant and run; none where no such thing was said."""
    from cascade.ledger.store import Selection  # noqa: PLC0415 - heavy

    if (user, tenant, run) == (None, None, None):
        return []
    own = {} if user is None else {"user": user}
    tenants: list[dict[str, str]] = [{}]
    if tenant is not None:
        tenants = [{"tenant": tenant}, {"key": tenant}]
    return [Selection(run_id=run, tags=own | of) for of in tenants]


def addresses_of(where: str) -> tuple[str, str | None]:
    """Where the lessons are, and the ledger of a configuration."""
    if "://" in where:
        return where, None
    require_service()
    from cascade.service.lessons import address_of  # noqa: PLC0415 - heavy
    from cascade.service.reading import read_settings  # noqa: PLC0415 - heavy

    config = read_settings(Path(where)).config
    ledger = None if config.ledger is None else config.ledger.url
    kept = None if ledger is None or ledger.startswith("memory:") else ledger
    return address_of(config), kept


def with_store(address: str, work: Callable[[LessonStore], Awaitable[T]]) -> T:
    """What some work on a store that is there gives."""
    from cascade.teaching import open_lessons  # noqa: PLC0415 - heavy

    must_exist(address, "lesson", "teaching_schema")

    async def run() -> T:
        async with open_lessons(address) as store:
            return await work(store)

    return asyncio.run(run())


def _erase(ledger: str, selection: Selection) -> tuple[int, bool]:
    from cascade.teaching.erasing import erase_from_ledger  # noqa: PLC0415 - heavy

    return asyncio.run(erase_from_ledger(ledger, selection))


def _tell(gone: Deleted, entries: int, had_ledger: bool, scrubbed: bool, json: bool) -> None:
    if json:
        figures = {"lessons": gone.lessons, "verdicts": gone.verdicts, "scrubbed": scrubbed}
        of_ledger = {"ledger_entries": entries if had_ledger else None}
        print_json(figures | of_ledger | {"exports": list(gone.exports)})
    else:
        parts = [counted(gone.lessons, "lesson"), counted(gone.verdicts, "verdict")]
        parts += [f"from the ledger: {entries:,}"] * had_ledger
        out.print(f"deleted: {', '.join(parts)}", markup=False)
    for path in gone.exports:
        err.print(f"still in a file that was exported before: {path}", markup=False, soft_wrap=True)
    if not scrubbed:
        err.print(
            "the database's files may still hold it, as another process is reading: delete again, "
            "or let all programs close it",
            markup=False,
        )


def _line(lesson: Lesson) -> str:
    said = {True: "said wrong", False: "said right", None: ""}[
        lesson.draft_is_wrong if lesson.origin == "audited" else lesson.answer_is_wrong
    ]
    question = " ".join(lesson.question.split())
    short = question if len(question) <= 60 else f"{question[:59]}…"
    parts = [f"{lesson.at:%Y-%m-%d %H:%M}", lesson.run_id, lesson.task, lesson.origin]
    return "  ".join(filter(None, [*parts, lesson.user, lesson.answer_model, said, short]))
