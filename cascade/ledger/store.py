"""The ledger's store in a database: SQLite by default, PostgreSQL for several machines."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic_core import to_jsonable_python
from typing_extensions import override

from cascade.errors import ConfigurationError, LedgerError
from cascade.ledger.base import EVERYTHING, NO_TAGS, LedgerStore, Selection
from cascade.ledger.database import Money, UtcTime, Words, Writer, execute, json_type, to_json
from cascade.ledger.entries import EXACT, FAILED, LedgerEntry, plain_reason, total_of
from cascade.state import Decision

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
import sqlalchemy as sa  # isort: skip
from sqlalchemy.dialects import postgresql  # isort: skip

T = TypeVar("T")

QUEUE, SLOW_S = 10_000, 5.0
"""Changes that may wait to be written, and longest wait for the database."""

# --- the table

_COLUMNS: dict[Any, str] = {
    Words: "id run_id node tier model price note cost_basis basis outcome",
    sa.BigInteger: "input_tokens output_tokens cached_tokens reasoning_tokens cache_write_tokens",
    Money: "cost_usd saved_usd baseline_usd baseline_low_usd baseline_high_usd assumed_usd",
    sa.Double: "latency_ms loss",
    UtcTime: "at",
    json_type: "decision tags",
}
entries = sa.Table(
    "ledger_entries",
    sa.MetaData(),
    *(
        sa.Column(name, kind, primary_key=name == "id", index=name == "run_id")
        for kind, names in _COLUMNS.items()
        for name in names.split()
    ),
    # A call waits until all indexes have its row; completed, it changes none of them.
    sa.Index("ledger_entries_at", "at", "id"),
)
COLUMNS = tuple(str(column.name) for column in entries.columns)  # not of a class of SQLAlchemy's
IS_BEGUN = entries.c.outcome == sa.literal_column("'begun'")


class Tagged(NamedTuple):
    """An entry, or a call that begins, with its tags."""

    entry: LedgerEntry
    tags: Mapping[str, str]

    def __str__(self) -> str:
        # For the log, without free texts.
        said = self.entry.model_dump_json(exclude_defaults=True, exclude={"note", "decision"})
        return f"{said} with tags {dict(self.tags)}"


def _row_of(entry: LedgerEntry, tags: Mapping[str, str]) -> dict[str, Any]:
    row = {**entry.__dict__, "tags": dict(tags) or None}
    row["baseline_low_usd"], row["baseline_high_usd"] = row.pop("baseline_range") or (None, None)
    return row


_INSERT = postgresql.insert(entries)  # SQLite's dialect compiles it as well
_TOLD = {n: _INSERT.excluded[n] for n in COLUMNS if n not in ("id", "run_id", "node", "at")}
_KEEP = _INSERT.on_conflict_do_update(index_elements=["id"], set_=_TOLD, where=IS_BEGUN)
_FORGET = sa.delete(entries).where(entries.c.id == sa.bindparam("gone"), IS_BEGUN)


class SqlLedger(Writer, LedgerStore):
    """Store of ledger entries in SQLite or PostgreSQL, for `Cascade(ledger=…)`; also `open_store`.

    What is read has in it all that was appended before. Where the database is away, entries wait
    until it is back; `begin`, `flush` and whatever reads raise `LedgerError` within a second. What
    waits is written by `close`, `aclose`, and at exit.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://…`, or `memory://`
            for one that is gone with its process.
        read_only: change nothing, and make no file; whatever would write raises `LedgerError`.

    Raises:
        ConfigurationError: the address has none of these forms.
        MissingDependencyError: the database's driver is not installed.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        super().__init__(url, "ledger", entries.metadata, read_only=read_only)
        self.slow_s = SLOW_S

    @override
    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        with self._room:
            patience_s = 0 if self._problem else self.patience_s
            if not self._room.wait_for(lambda: len(self._queue) < QUEUE, patience_s):
                raise self._unavailable()
            self._put(*(Tagged(entry, tags) for entry in entries), kept=True)

    @override
    async def begin(self, entry: LedgerEntry, tags: Mapping[str, str] = NO_TAGS) -> None:
        await self._written(Tagged(entry, tags), undo=entry.id, here=True)

    @override
    def withdraw(self, entry_id: str) -> None:
        self._put(entry_id)

    async def delete(
        self,
        selection: Selection = EVERYTHING,
        *,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> int:
        """Number of entries deleted, with their begun calls; they are overwritten.

        Raises:
            ConfigurationError: it is not said what to delete, or in two ways.
        """
        if (selection != EVERYTHING) + (older_than is not None) + everything != 1:
            raise ConfigurationError(
                "say what to delete: a selection, older_than=timedelta(…), or everything=True for "
                "the whole ledger."
            )
        if older_than is not None:
            selection = Selection(until=datetime.now(UTC) - older_than)
        chosen = sa.delete(entries).where(*_where(selection))
        steps = chosen.where(IS_BEGUN), chosen
        await self.flush()
        _, deleted = await self.write(lambda c: [c.execute(s).rowcount for s in steps])
        await asyncio.to_thread(self.move_journal, wait=True)
        return deleted

    @override
    async def of_run(self, run_id: str) -> list[LedgerEntry]:
        return await self.entries(Selection(run_id=run_id))

    async def entries(self, selection: Selection = EVERYTHING) -> list[LedgerEntry]:
        """Entries ordered by time, then id; begun calls are not among them, see `unfinished`."""
        return await self._read(_chosen(selection), _entry_of)

    async def rows(
        self,
        selection: Selection = EVERYTHING,
        columns: Sequence[str] = ("run_id", "node", "cost_usd"),
        *,
        limit: int | None = None,
    ) -> list[tuple[Any, ...]]:
        """Columns of entries, ordered by time: fields of `LedgerEntry` (for the range of a baseline
        `baseline_low_usd` and `baseline_high_usd`), `tags`, a tag as `tags.user`, or a field of
        the decision as `decision.action`.

        Raises:
            ConfigurationError: there is no such column.
        """
        found = _chosen(selection).with_only_columns(*map(_column, columns))
        return await self._read(found.limit(limit), tuple)

    async def unfinished(self, selection: Selection = EVERYTHING) -> list[LedgerEntry]:
        """Calls that were begun and not completed: their process was killed, or is still at it."""
        return await self._read(_chosen(selection, IS_BEGUN), _entry_of)

    @override
    async def spent(self, node: str, since: datetime) -> Decimal:
        # Added up here, as SQLite cannot add exactly, but equal costs at once.
        nothing = sa.literal(Decimal(0), Money)
        cost = sa.func.coalesce(entries.c.cost_usd, entries.c.assumed_usd, nothing, type_=Money)
        chosen = entries.c.node == node, entries.c.at >= since, ~IS_BEGUN
        statement = sa.select(cost, sa.func.count()).where(*chosen).group_by(cost)
        return total_of(await self._read(statement, lambda row: EXACT.multiply(*row)))

    async def export(self, path: str | Path, selection: Selection = EVERYTHING) -> int:
        """Number of entries written to a new file, `.jsonl` or `.csv`. Amounts are decimal text,
        times UTC, and what is unknown is null (empty in CSV).

        Raises:
            ConfigurationError: the name has none of these endings.
        """
        if (path := Path(path)).suffix not in (".jsonl", ".csv"):
            raise ConfigurationError(f"{path}: the ending names the format, .jsonl or .csv.")
        found = _chosen(selection).execution_options(yield_per=200)  # flat memory for millions
        await self.flush()
        return await self.read(lambda c: _write_file(path, c.execute(found)))

    async def ready(self) -> str | None:
        """Reason why entries cannot be written now, in words; None where they can."""
        if self._problem is not None:  # there may be room for the probe alone
            return self._problem
        probe = sa.text("UPDATE ledger_version SET version_num = version_num")
        try:
            async with asyncio.timeout(self.patience_s):
                await self.write(lambda c: c.execute(probe).rowcount)
        except (TimeoutError, LedgerError) as error:
            return str(error) or f"{self.place} has not answered for {self.patience_s} s."
        return None

    async def _read(self, statement: sa.Executable, made: Callable[[Any], T]) -> list[T]:
        await self.flush()
        return await self.read(lambda c: [made(row) for row in c.execute(statement)])

    @override
    async def flush(self) -> None:
        if not self.read_only:
            await self._written()

    @override
    def _make(self, works: Sequence[Any], connection: Any) -> None:
        kept = [_row_of(*work) for work in works if isinstance(work, Tagged)]
        gone = [{"gone": work} for work in works if isinstance(work, str)]
        for statement, rows in ((_KEEP, kept), (_FORGET, gone)):
            if rows:
                execute(connection, statement, *rows)


open_store = SqlLedger
"""Makes a store: `open_store("sqlite:///ledger.db")`."""


def _entry_of(row: Any) -> LedgerEntry:
    fields = dict(zip(COLUMNS, row, strict=True))
    low, high, _ = (fields.pop(n) for n in ("baseline_low_usd", "baseline_high_usd", "tags"))
    return LedgerEntry(**fields, baseline_range=None if low is None else (low, high))


def _chosen(selection: Selection, kind: sa.ColumnElement[bool] = ~IS_BEGUN) -> sa.Select[Any]:
    chosen = sa.select(entries).where(*_where(selection), kind)
    return chosen.order_by(entries.c.at, entries.c.id)


def _where(selection: Selection) -> list[sa.ColumnElement[bool]]:
    run_id, since, until = selection.run_id, selection.since, selection.until
    conditions = [entries.c.tags[key].as_string() == tag for key, tag in selection.tags.items()]
    conditions += [] if run_id is None else [entries.c.run_id == run_id]
    conditions += [] if since is None else [entries.c.at >= since]
    return conditions + ([] if until is None else [entries.c.at < until])


def _column(name: str) -> Any:
    of, _, part = name.partition(".")
    if not part and of in entries.c:
        return entries.c[of]
    if part and of == "tags":
        return entries.c.tags[part].as_string()
    if of == "decision" and part in Decision.model_fields:
        found = entries.c.decision[part]
        if part in ("confidence", "threshold", "audit_rate"):  # SQLite shortens others' digits
            return found.as_float()
        return found.as_boolean() if part in ("calibrated", "once") else found.as_json()
    known = [*COLUMNS, "tags.NAME", *(f"decision.{part}" for part in Decision.model_fields)]
    raise ConfigurationError(f"{name!r} is no column of a ledger: give one of {', '.join(known)}.")


# --- files for other programs

_DECISION = ("action", "confidence", "calibrated", "audit_rate", "signals")
_FORMULA = tuple("=+-@\t\r\n|%")


def _write_file(path: Path, rows: Iterable[Any]) -> int:
    n, names = 0, [*(name for name in COLUMNS if name != "decision"), *_DECISION]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, names)
        if path.suffix == ".csv":
            table.writeheader()
        for row in rows:
            n += 1
            fields = dict(zip(COLUMNS, row, strict=True))
            # A note of a call that failed may quote a server, as may the end of a reason.
            fields["note"] = "" if fields["outcome"] in FAILED else plain_reason(fields["note"], ())
            fields["tags"], decision = fields["tags"] or {}, fields.pop("decision") or {}
            fields |= {name: decision.get(name) for name in _DECISION}
            if path.suffix == ".csv":
                table.writerow({name: _cell(value) for name, value in fields.items()})
            else:
                file.write(to_json(fields) + "\n")
    return n


def _cell(value: Any) -> Any:
    """A value of CSV; a text that a spreadsheet would take for a formula has the apostrophe that
    makes it text: models name tools, and opening a file must not run what they say."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return to_json(value) if isinstance(value, dict) else to_jsonable_python(value)
