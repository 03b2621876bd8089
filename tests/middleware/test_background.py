from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from cascade import LedgerStore
from cascade.errors import LedgerError
from cascade.ledger import tagged
from cascade.middleware import background
from cascade.middleware.background import Background, BackgroundRuns, fingerprint, lot
from cascade.run import Kernel, Run
from tests.middleware.cascades import Keeping, pair, small

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


# --- draws


def test_a_lot_is_uniform_the_same_each_time_and_independent_of_other_purposes() -> None:
    lots = [lot(str(i), "a") for i in range(4_000)]
    assert lots == [lot(str(i), "a") for i in range(4_000)]
    assert 0.45 < sum(lots) / len(lots) < 0.55
    both = sum(x < 0.5 and lot(str(i), "b") < 0.5 for i, x in enumerate(lots))
    assert 900 < both < 1_100


# --- work


def test_work_goes_on_when_the_loop_that_asked_for_it_has_ended() -> None:
    work, done, go = Background(), threading.Event(), threading.Event()

    async def later() -> None:
        await asyncio.to_thread(go.wait, 30)
        done.set()

    async def ask() -> None:
        assert work.start(later)

    asyncio.run(ask())
    go.set()
    asyncio.run(work.finish())
    assert done.is_set()


async def test_work_does_not_see_the_context_of_the_run_that_was_answered() -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(variable.get())

    variable.set("of the run")
    work = Background()
    work.start(look)
    await work.finish()
    assert seen == ["unset"]


async def test_so_much_is_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "AT_ONCE", 3)
    now, most, go = 0, 0, threading.Event()

    async def count() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.to_thread(go.wait, 30)
        now -= 1

    work = Background()
    for _ in range(10):
        work.start(count)
    go.set()
    await work.finish()
    assert (now, most) == (0, 3)


# --- runs


class Doing:
    """Does background runs, and writes them down."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.runs: list[Run] = []
        self._answers = list(answers)

    async def __call__(self, run: Run, kernel: Kernel) -> bool:
        self.runs.append(run)
        answer = self._answers.pop(0) if self._answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer


def begun(kernel: Any) -> Run:
    messages: list[Any] = [
        HumanMessage("Hello"),
        AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}]),
        ToolMessage("x", tool_call_id="1", artifact=object()),
        HumanMessage("Capital of Australia?"),
    ]
    return kernel.begin(messages, kind="audit")


def kernel_with(store: Any) -> Any:
    return pair(ledger=store).kernel


async def test_a_run_is_a_job_until_it_is_done() -> None:
    store, do = Keeping(), Doing(False)
    kernel, runs = kernel_with(store), BackgroundRuns("audit", do)
    run = begun(kernel)
    runs.take(run, kernel)
    await runs.finish()
    assert list(store.jobs) == [run.id]  # it is to be tried again
    await runs.resume(kernel, timedelta())
    await runs.finish()
    assert not store.jobs
    again = do.runs[1]
    assert (again.id, again.question, again.kind) == (run.id, run.question, "audit")
    assert [m.type for m in again.messages] == ["human", "ai", "tool", "human"]


async def test_what_is_cancelled_at_the_end_stays_a_job() -> None:
    store, asked = Keeping(), threading.Event()

    async def hang(run: Run, kernel: Kernel) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    kernel, runs = kernel_with(store), BackgroundRuns("audit", hang)
    run = begun(kernel)
    runs.take(run, kernel)
    await asyncio.to_thread(asked.wait, 30)
    await runs.finish(0.01)
    assert list(store.jobs) == [run.id]


async def test_what_another_process_has_left_is_taken_up_with_its_tags() -> None:
    store, first, second = Keeping(), Doing(False), Doing()
    kernel = kernel_with(store)
    with tagged(user="42"):
        left = BackgroundRuns("audit", first)
        left.take(begun(kernel), kernel)
    await left.finish()
    (run_id,) = store.jobs
    assert store.jobs[run_id].tags == {"user": "42"}  # by which it is deleted
    store.changed(run_id, at=datetime.now(UTC) - timedelta(hours=1))
    runs = BackgroundRuns("audit", second)
    runs.look(kernel)
    runs.look(kernel)  # now and then, not with each question
    await runs.finish()
    (run,) = second.runs
    assert run.settings["tags"] == {"user": "42"}


async def test_jobs_of_other_cascades_are_left_alone() -> None:
    store = Keeping()
    kernel, other = kernel_with(store), pair(small(), small(), ledger=store).kernel
    assert fingerprint(kernel) != fingerprint(other)
    runs = BackgroundRuns("audit", Doing(False))
    runs.take(begun(kernel), kernel)
    await runs.finish()
    do = Doing()
    await BackgroundRuns("audit", do).resume(other, timedelta())
    assert do.runs == []
    assert len(store.jobs) == 1


@pytest.mark.parametrize(
    ("payload", "age"), [("{}", timedelta()), ("no JSON", timedelta()), (None, timedelta(days=2))]
)
async def test_jobs_that_cannot_be_read_or_are_old_are_dropped(
    payload: str | None, age: timedelta
) -> None:
    store, do = Keeping(), Doing(False)
    kernel, runs = kernel_with(store), BackgroundRuns("audit", do)
    runs.take(begun(kernel), kernel)
    await runs.finish()
    (run_id,) = store.jobs
    changed = {} if payload is None else {"payload": payload}
    store.changed(run_id, at=datetime.now(UTC) - age, **changed)
    await runs.resume(kernel, timedelta())
    await runs.finish()
    assert (store.jobs, len(do.runs)) == ({}, 1)


class Refusing(LedgerStore):
    def append(self, entries: Any, tags: Any = None) -> None: ...

    def put_job(self, job: Any) -> None:
        raise LedgerError("no place")


async def test_where_the_store_takes_no_job_the_run_is_done_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    do = Doing()
    kernel, runs = kernel_with(Refusing()), BackgroundRuns("audit", do)
    with caplog.at_level(logging.WARNING):
        runs.take(begun(kernel), kernel)
        await runs.finish()
    assert len(do.runs) == 1
    assert "would not survive" in caplog.text


async def test_where_too_much_waits_a_run_is_refused_and_may_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    do, store = Doing(), Keeping()
    kernel, runs = kernel_with(store), BackgroundRuns("audit", do)
    run = begun(kernel)
    monkeypatch.setattr(background, "MOST_WAITING", 0)
    assert runs.full
    assert not runs.take(run, kernel)
    assert not store.jobs
    monkeypatch.setattr(background, "MOST_WAITING", 10)
    assert runs.take(run, kernel)
    await runs.finish()
