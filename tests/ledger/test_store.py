"""The store in a database: nothing is lost, nothing is doubled, and what fails says so in time."""

from __future__ import annotations

import asyncio
import csv
import json
import logging
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cascade.errors import ConfigurationError, LedgerError, MissingDependencyError
from cascade.ledger import Selection, open_store, tagged
from cascade.ledger import database as databases
from cascade.ledger import store as stores
from cascade.ledger.base import current_tags
from tests.ledger.processes import ROOT
from tests.ledger.samples import call, decided, entry

DAY = timedelta(days=1)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)


def rows(path: Path, *, begun: bool = False) -> list[str]:
    """Runs in the file, for whoever opens it now."""
    which = f"outcome {'=' if begun else '!='} 'begun' ORDER BY id"
    with closing(sqlite3.connect(path)) as file:
        return [run for (run,) in file.execute(f"SELECT run_id FROM ledger_entries WHERE {which}")]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process writes, and does not end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("COMMIT")


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file may grow by as much as a row takes, beyond what the ledger's files have now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = [file.stat().st_size for file in path.parent.glob(f"{path.name}*")]
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) + 10_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_thread_writes_more(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "BATCH", 2)
    monkeypatch.setattr(databases, "LITTLE", 2)
    monkeypatch.setattr(stores.SqlLedger, "linger_s", 60)
    async with open_store(url) as store:
        await store.flush()
        store.append([entry("a") for _ in range(3)])
        await store.begin(call("b"))
        assert (rows(path), rows(path, begun=True)) == (["a"] * 3, ["b"])


async def test_a_call_waits_its_turn(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "BUSY_S", 60.0)
    monkeypatch.setattr(stores, "SLOW_S", 60.0)
    async with open_store(url) as store:
        await store.begin(call("before"))
        with locked(path):
            beginning = [asyncio.create_task(store.begin(call(name))) for name in "abc"]
            await asyncio.sleep(1.0)
            assert not any(task.done() for task in beginning)
            for given_up in beginning[1:]:
                given_up.cancel()
        await asyncio.wait(beginning)
        await store.flush()
        assert sorted(rows(path, begun=True)) == ["a", "before"]


def test_event_loops_of_many_threads_lose_nothing(url: str, path: Path) -> None:
    store = open_store(url)

    async def work(name: str) -> None:
        for i in range(50):
            await store.begin(call(f"{name}{i:02}"))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(work(n))) for n in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert sorted(rows(path, begun=True)) == [f"{n}{i:02}" for n in "abcd" for i in range(50)]


def program(text: str, *given: str) -> subprocess.CompletedProcess[str]:
    command, how = [sys.executable, "-c", text, *given], {"capture_output": True, "text": True}
    return subprocess.run(command, cwd=ROOT, check=False, timeout=300, **how)


USING = """
import asyncio, sys
from cascade.ledger import open_store
from tests.ledger.samples import call, entry
store = open_store(sys.argv[1])
"""
ABANDONING = """
async def ask():
    try: await asyncio.sleep(60)
    finally: store.append([entry()])
loop = asyncio.new_event_loop()
loop.run_until_complete(store.begin(call()))
asked = loop.create_task(ask())
loop.run_until_complete(asyncio.sleep(0))
loop.close()
"""


def test_a_program_that_ends_while_the_database_is_away_logs_what_it_had(tmp_path: Path) -> None:
    leaving = "store.append([entry(str(i)) for i in range(500)])"
    done = program(USING + leaving, f"sqlite:///{tmp_path}/none/ledger.db")
    assert done.stderr.count('"run_id"') == 500


def test_a_program_that_ends_with_calls_in_a_closed_loop_does_end(url: str, path: Path) -> None:
    assert program(USING + ABANDONING, url).returncode == 0
    assert rows(path, begun=True) == ["r"]


def test_a_store_that_was_in_use_is_refused_after_a_fork(url: str, path: Path) -> None:
    store = open_store(url)
    asyncio.run(store.begin(call("parent")))
    child = os.fork()
    if child == 0:
        refused = 0
        for use in (lambda: asyncio.run(store.begin(call("child"))), lambda: store.append([])):
            try:
                use()
            except LedgerError as error:
                refused += "forked" in str(error)
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    store.close()
    assert rows(path, begun=True) == ["parent"]


async def test_on_a_full_disk_calls_fail_within_a_second_and_recovery_is_seen(
    url: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(url)
    await store.begin(call("before"))
    assert await store.ready() is None
    with full_disk(path):
        for run in ("a", "b"):
            began = time.monotonic()
            with pytest.raises(LedgerError, match=r"^ledger in \S+: [^:]*; 0 changes wait"):
                await store.begin(call(run))
            assert time.monotonic() - began < 10, "a second, on a machine that is free"
        store.append([entry("paid")])
        with pytest.raises(LedgerError, match="1 changes wait"):
            await store.flush()
        assert "ledger" in (await store.ready() or "")
    while store.waiting:  # noqa: ASYNC110 - the thread tries again by itself
        await asyncio.sleep(0.02)
    await store.begin(call("after"))
    assert await store.ready() is None
    await store.aclose()
    assert rows(path) == ["paid"]
    assert sorted(rows(path, begun=True)) == ["after", "before"]
    told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["trying again" in told[0], "is written again" in told[1]] == [True, True]


async def test_a_file_moved_away_takes_no_call_yet(url: str, path: Path, tmp_path: Path) -> None:
    """What is written to it would be lost."""
    store = open_store(url)
    await store.begin(call("before"))
    away = await asyncio.to_thread(path.rename, tmp_path / "away.db")
    with pytest.raises(LedgerError, match=r"deleted or replaced.*put the file back"):
        await store.begin(call("lost"))
    await asyncio.to_thread(away.rename, path)
    await store.begin(call("after"))
    await store.aclose()
    assert sorted(rows(path, begun=True)) == ["after", "before"]


async def test_a_folder_may_be_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "QUEUE", 3)
    store = open_store(f"sqlite:///{tmp_path}/later/ledger.db")
    with pytest.raises(LedgerError, match="No such file"):
        await store.begin(call("a"))
    store.append([entry("a") for _ in range(9)])
    with pytest.raises(LedgerError, match="9 changes wait"):
        store.append([entry("b")])
    with pytest.raises(LedgerError, match="changes wait"):
        await store.aclose()
    (tmp_path / "later").mkdir()
    while store.waiting:  # noqa: ASYNC110 - the thread tries again by itself
        await asyncio.sleep(0.02)
    await store.aclose()
    assert rows(tmp_path / "later" / "ledger.db") == ["a"] * 9


async def test_an_entry_that_no_database_can_keep_is_named_alone(
    url: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(url) as store:
        store.append([entry("a"), entry("bad", input_tokens=2**80), entry("b")])
        await store.flush()
        assert [message for message in caplog.messages if "refused" in message and "bad" in message]
        assert rows(path) == ["a", "b"]
        with pytest.raises(LedgerError, match=r"ledger in .* refused .*worse"):
            await store.begin(call("worse", input_tokens=2**80))


async def test_what_comes_while_the_thread_ends_is_for_the_next_one(url: str, path: Path) -> None:
    store = open_store(url)
    for i in range(20):
        store.append([entry(f"{i:02}")])
        closing_ = [asyncio.create_task(store.aclose()) for _ in range(2)]
        await asyncio.to_thread(store.append, [entry(f"{i:02}")])
        await asyncio.gather(*closing_)
    await store.aclose()
    assert rows(path).count("07") == 2
    assert len(rows(path)) == 40


async def test_the_journal_is_moved(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "JOURNAL", 100)
    wal = path.with_name("ledger.db-wal")
    async with open_store(url) as store:
        longest = 0
        for i in range(1_000):
            await store.begin(call(str(i)))
            longest = max(longest, wal.stat().st_size)
        assert longest < 8_000_000, "all calls are more"


async def test_a_new_file_may_be_read_by_its_owner_alone(url: str, path: Path) -> None:
    async with open_store(url) as store:
        await store.begin(call())
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.glob("ledger.db*")}
    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


async def test_read_only_changes_nothing_and_makes_no_file(url: str, path: Path) -> None:
    for text, said in (
        (None, "no ledger"),
        (b"", "no ledger"),
        (b"question" * 99, "no.* database"),
    ):
        if text is not None:
            path.write_bytes(text)  # noqa: ASYNC240
        with pytest.raises(LedgerError, match=said):
            await open_store(url, read_only=True).entries()
        assert path.exists() is (text is not None)  # noqa: ASYNC240
    path.unlink()  # noqa: ASYNC240
    async with open_store(url) as store, open_store(url, read_only=True) as reader:
        for n in (1, 2):
            store.append([entry("a")])
            await store.flush()
            assert len(await reader.rows()) == n
        for write in (reader.delete(everything=True), reader.begin(call())):
            with pytest.raises(LedgerError, match="reading only"):
                await write
        assert "reading only" in (await reader.ready() or "")


@pytest.mark.parametrize(
    "address",
    [
        *("ledger.db", "mysql://root:secret@host/db", "sqlite://", "sqlite:///:memory:"),
        *("postgresql-asyncpg://u:secret@host/db", "postgresql://u:secret@host:port/db"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(ConfigurationError, match="no address of a database: give sql") as told:
        open_store(address)
    assert "secret" not in str(told.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"\.\[postgres\]"):
        open_store("postgres://host/db")
    done = program("import sys; sys.modules['sqlalchemy'] = None; import cascade.ledger.store")
    assert ".[store]" in done.stderr


async def test_a_column_that_is_none_is_named() -> None:
    async with open_store("memory://") as store:
        for name in ("price_usd", "decision.none", "node.x"):
            with pytest.raises(ConfigurationError, match="no column of a ledger"):
                await store.rows(columns=[name])
        store.append([decided("a")])
        assert await store.rows(columns=["decision.reason", "decision.threshold"]) == [
            ("P(correct) 0.93 is above 0.80", None)
        ]


def test_tags_within_tags_are_together_and_have_to_be_text() -> None:
    with tagged(user="1"), tagged(team="t"):
        assert current_tags() == {"user": "1", "team": "t"}
    assert current_tags() == {}
    with pytest.raises(ConfigurationError, match="give values as text"):
        tagged(user=42).__enter__()  # type: ignore[arg-type]


async def test_deletion_has_to_be_told_what_and_overwrites_it(url: str, path: Path) -> None:
    async with open_store(url) as store:
        store.append([entry("old", at=MARCH, note="remember me"), entry("new")])
        with pytest.raises(ConfigurationError, match="say what to delete"):
            await store.delete(Selection(run_id="old"), older_than=DAY)
        assert await store.delete(older_than=DAY) == 1
        assert rows(path) == ["new"]
        files = b"".join(file.read_bytes() for file in path.parent.glob("ledger.db*"))
        assert b"remember me" not in files


async def test_an_export_has_every_entry_and_no_words_of_servers(url: str, tmp_path: Path) -> None:
    later = datetime.now(UTC) + DAY
    failed = entry("b", at=later, node="=cmd()", outcome="failed", note="10.0.0.1")
    why = "the self-check failed: openai:x at http://10.0.0.1 says no"
    judged = decided("a").model_copy(update={"note": why})
    async with open_store(url) as store:
        store.append([judged, failed], {"user": "1"})
        for name in ("e.jsonl", "e.csv"):
            assert await store.export(tmp_path / name) == 2
        with pytest.raises(ConfigurationError, match="ending"):
            await store.export(tmp_path / "e.xlsx")
    first, second = map(json.loads, (tmp_path / "e.jsonl").read_text().splitlines())
    assert (first["baseline_low_usd"], first["action"]) == ("0.000617283945", "accept")
    assert first["note"] == "a tier failed"
    assert (second["note"], second["cost_usd"], second["tags"]) == ("", None, {"user": "1"})
    with (tmp_path / "e.csv").open() as file:
        table = list(csv.DictReader(file))
    assert (table[1]["node"], table[1]["cost_usd"]) == ("'=cmd()", "")
    assert json.loads(table[0]["signals"])["length"] == 100
    assert table[0]["saved_usd"] == "-0.000123456789"
