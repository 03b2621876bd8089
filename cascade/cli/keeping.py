"""What databases keep of money, users and answers: `cascade report`, `keys`, `lessons`, `teach`."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from typer import Argument, Option

from cascade.cli.options import Page, must_be_file, write_page
from cascade.cli.program import busy, give, program_of
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.service.keys import Key, Keys
    from cascade.teaching import LessonStore

S = TypeVar("S")
T = TypeVar("T")

Ledger = Annotated[str, Argument(help="The service's configuration, or its ledger's address.")]
Lessons = Annotated[str, Argument(help="Address: sqlite:///lessons.db, postgresql://…")]


def _time(typed: str) -> datetime:
    unit = {"m": "minutes", "h": "hours", "d": "days"}.get(typed[-1:])
    with suppress(ValueError, OverflowError):
        if unit is not None and typed[:-1].isdigit():
            found = datetime.now(UTC) - timedelta(**{unit: float(typed[:-1])})
        else:
            found = datetime.fromisoformat(typed)
        if 1900 <= found.year < 2500:  # it is compared with the period before
            return found
    how = "write a date (2026-11-28), or so long ago (24h, 7d)"
    raise ConfigurationError(f"{typed!r} is no time: {how}.")


def report(
    ledger: Annotated[str, Argument(help="Address: sqlite:///ledger.db, postgresql://…")],
    *,
    since: Annotated[Any, Option(parser=_time, help="From this date, or 24h, 7d ago.")] = None,
    until: Annotated[Any, Option(parser=_time, help="Before this date, or 24h, 7d ago.")] = None,
    tag: Annotated[list[str] | None, Option(help="Only runs with this tag, name=value.")] = None,
    by: Annotated[str | None, Option(help="Break down by this tag as well.")] = None,
    html: Page = None,
) -> None:
    """Say what was spent, what was saved for certain, and what that cost in quality."""
    from cascade.evaluation.render import to_text  # noqa: PLC0415 - heavy
    from cascade.evaluation.report import make_report  # noqa: PLC0415
    from cascade.ledger import Selection, open_store  # noqa: PLC0415

    selection = Selection(since=since, until=until, tags=_tags(tag))
    with busy("reading the ledger"):
        opened = open_store(ledger, read_only=True)
        found = _using(opened, lambda store: make_report(store, selection, tag=by))
    write_page(html, found.document, _file_of(ledger))
    give(found, to_text(found.document))


def create(
    where: Ledger,
    name: Annotated[str, Argument(help="Whose key it is.")],
    *,
    model: Annotated[list[str] | None, Option(help="Models it may use; all by default.")] = None,
    per_minute: Annotated[float | None, Option(help="Requests per minute.")] = None,
    day_usd: Annotated[Decimal | None, Option(help="Dollars per day of UTC.", min=0)] = None,
    month_usd: Annotated[Decimal | None, Option(help="Dollars per month of UTC.", min=0)] = None,
    tag: Annotated[list[str] | None, Option(help="name=value on its entries; repeatable.")] = None,
    admin: Annotated[bool, Option(help="It opens /admin and the page.")] = False,
) -> None:
    """Make a key and print it. It is kept as a hash and cannot be printed again."""
    given: dict[str, Any] = {"models": tuple(model or ()), "tags": _tags(tag), "admin": admin}
    given |= {"per_minute": per_minute, "day_usd": day_usd, "month_usd": month_usd}
    key, secret = _with_keys(where, lambda kept: kept.create(name, **given), make=True)
    told = f"{key.id} {key.name}: this is the only time that it is shown"
    give({**key.model_dump(), "secret": secret}, secret, told)


def list_(where: Ledger) -> None:
    """Show all keys, without their secrets."""
    found = _with_keys(where, lambda kept: kept.list())
    remark = "" if found else f"no keys yet: `cascade keys create {where} NAME` makes one"
    give(found, "\n".join(map(_line, found)), remark)


def _line(key: Key) -> str:
    state = "valid" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    limits = {"{:g}/min": key.per_minute, "${:f}/day": key.day_usd, "${:f}/month": key.month_usd}
    bounds = [form.format(n) for form, n in limits.items() if n is not None]
    tags = [f"{tag}={value}" for tag, value in key.tags.items()]
    may = ["admin"] * key.admin + [",".join(key.models) or "all models"]
    return "  ".join([key.id, key.name, state, *may, *bounds, *tags])


def revoke(
    where: Ledger,
    key_id: Annotated[str, Argument(help="Its id, of `cascade keys list`.")],
) -> None:
    """End a key for good."""
    key = _with_keys(where, lambda kept: kept.revoke(key_id))
    give(key, f"{key.id} {key.name} is revoked")


def delete(
    where: Lessons,
    *,
    user: Annotated[str | None, Option(help="Those of this user, by the tag `user`.")] = None,
    tenant: Annotated[str | None, Option(help="Those of this tenant, by tag or key.")] = None,
    run: Annotated[str | None, Option(help="Those of this run.")] = None,
    older_than: Annotated[int | None, Option(min=1, max=36_500, help="Older than N days.")] = None,
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


def terms(
    where: Lessons,
    model: Annotated[str | None, Argument(help="provider:name, or provider:*.")] = None,
    *,
    may: Annotated[bool | None, Option("--may-train/--no-train", help="Train on answers?")] = None,
    source: Annotated[str, Option(help="Where the terms are written, such as a URL.")] = "",
) -> None:
    """Show what was stated of models, or state it of one, as of today."""
    from cascade.teaching import Terms  # noqa: PLC0415 - SQLAlchemy

    if (model is None) != (may is None):
        raise ConfigurationError("terms are stated of a MODEL, with --may-train or --no-train.")

    async def work(store: LessonStore) -> dict[str, Terms]:
        if model is not None:
            today = date.today()  # noqa: DTZ011 - the user's day
            await store.state_terms(model, Terms(may_train=may, source=source, as_of=today))
        return await store.terms()

    found, lines = _with_lessons(where, work), []
    for name, each in found.items():
        said = {None: "not stated", True: "allowed", False: "forbidden"}[each.may_train]
        lines.append(f"{name}: training {said}, as of {each.as_of} {each.source}")
    give(found, "\n".join(lines))


def export(
    where: Lessons,
    *,
    output: Annotated[Path, Option(help="The training file, JSON lines.")],
    form: Annotated[
        Literal["messages", "prompt_completion", "preference"], Option(help="Columns of the file.")
    ] = "messages",
    evaluation: Annotated[list[Path] | None, Option(help="Questions left out; repeatable.")] = None,
    task: Annotated[str | None, Option(help="Lessons of this task alone.")] = None,
    validation: Annotated[float, Option(help="Share for a second file, of validation.")] = 0.1,
) -> None:
    """Write lessons whose terms permit it as chats, without duplicates and evaluation questions."""
    from cascade.evaluation import read_examples  # noqa: PLC0415 - heavy
    from cascade.teaching.exporting import export as work  # noqa: PLC0415

    must_be_file("--output", output, _file_of(where), *(evaluation or ()))
    asked = [example.question for path in evaluation or () for example in read_examples(path)]
    how: dict[str, Any] = {"form": form, "validation": validation, "task": task}
    done = _with_lessons(where, partial(work, path=output, evaluation=asked, **how))
    remarks = [f"left out: {n:,}, {why}" for why, n in done.removed.most_common()]
    if not asked:
        remarks.append("no --evaluation was given: what you evaluate on may be in the file.")
    rows = "\n".join(f"{path}: {n:,} rows" for path, n in done.rows.items())
    give(done, rows, "\n".join(remarks))


def status(where: Lessons) -> None:
    """Say what lessons there are, and what may be done with them."""
    judged, models = Counter[bool | None](), defaultdict[str, Counter[str]](Counter)

    async def count(store: LessonStore) -> None:
        stated = await store.terms()
        async for lesson in store.lessons():
            may, counts = lesson.may_train(stated), models[lesson.answer_model]
            counts.update(lessons=1, may_train=int(may is True), not_stated=int(may is None))
            judged[lesson.answer_is_wrong] += 1

    _with_lessons(where, count)
    n, right, wrong = judged.total(), judged[False], judged[True]
    lines = [f"{n:,} lessons; said right {right:,}, wrong {wrong:,}"]
    for model, counts in models.items():
        lines.append(f"{model}: " + ", ".join(f"{what} {n:,}" for what, n in counts.items()))
    found = {"lessons": n, "said_right": right, "said_wrong": wrong, "models": models}
    give(found, "\n".join(lines))


keys = program_of("Make, list and revoke the API keys of a service.", create, list_, revoke)
lessons = program_of("Delete lessons, and state what may be done with answers.", delete, terms)
teach = program_of(
    "Write training files from lessons, and say what there is to train on.", export, status
)


def _tags(given: Sequence[str] | None) -> dict[str, str]:
    for typed in given or ():
        if not all(typed.partition("=")[:2]):
            raise ConfigurationError(f"--tag {typed!r}: write name=value.")
    return dict(typed.split("=", 1) for typed in given or ())


def _with_keys(where: str, work: Callable[[Keys], Awaitable[T]], *, make: bool = False) -> T:
    from cascade.service.config import read_config  # noqa: PLC0415 - heavy
    from cascade.service.keys import Keys  # noqa: PLC0415

    url = where if "://" in where else read_config(where).ledger
    if url is None or url.startswith("memory:"):
        raise ConfigurationError(f"{where} has no ledger in a database: keys are kept beside it.")
    if url == where and not make:
        _file_of(url)
    return _using(aclosing(Keys(url)), work)


def _with_lessons(where: str, work: Callable[[LessonStore], Awaitable[T]]) -> T:
    from cascade.teaching import open_lessons  # noqa: PLC0415 - SQLAlchemy

    _file_of(where)
    return _using(open_lessons(where), work)


def _file_of(address: str) -> Path | None:
    """The file of a database of SQLite's, which has to be there: to open it would make it."""
    from cascade.ledger.database import database_url  # noqa: PLC0415 - SQLAlchemy

    url = database_url(address)
    if url.drivername != "sqlite":
        return None
    if not (file := Path(url.database or "")).is_file():
        raise ConfigurationError(f"{address}: there is no such database; nothing was made.")
    return file


def _using(opened: AbstractAsyncContextManager[S], work: Callable[[S], Awaitable[T]]) -> T:
    async def run() -> T:
        async with opened as store:
            return await work(store)

    return asyncio.run(run())
