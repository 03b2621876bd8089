import asyncio
import contextvars
import threading

import pytest

from cascade.middleware import background
from cascade.middleware.background import Background, lot

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_a_lot_is_uniform_the_same_each_time_and_independent_of_other_purposes() -> None:
    lots = [lot(str(i), "a") for i in range(4_000)]
    assert lots == [lot(str(i), "a") for i in range(4_000)]
    assert 0.45 < sum(lots) / len(lots) < 0.55
    both = sum(x < 0.5 and lot(str(i), "b") < 0.5 for i, x in enumerate(lots))
    assert 900 < both < 1_100


def test_work_goes_on_when_the_loop_that_asked_for_it_has_ended() -> None:
    work, done, go = Background(), threading.Event(), threading.Event()

    async def later() -> None:
        await asyncio.to_thread(go.wait, 300)
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
        await asyncio.to_thread(go.wait, 300)
        now -= 1

    work = Background()
    for _ in range(10):
        work.start(count)
    go.set()
    await work.finish()
    assert (now, most) == (0, 3)


async def test_the_work_of_a_run_is_begun_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    async def do() -> None:
        done.append("done")

    work = Background()
    monkeypatch.setattr(background, "MOST_WAITING", 0)
    assert work.full
    assert not work.start(do, "run")
    monkeypatch.setattr(background, "MOST_WAITING", 10)
    for run_id in ("run", "run", "another"):
        assert work.start(do, run_id)
    await work.finish()
    assert len(done) == 2
