"""A calibration that changes is taken on while requests run; a broken one changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cascade.models.base import guard
from tests.servers import replies
from tests.service import calibrated
from tests.service.gateway import Gateway, configured, gateway, until
from tests.service.test_shutdown import process

ACCEPTS, REJECTS = 0.9, 0.1


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[calibrated.Upstream]:
    monkeypatch.setattr(guard, "forbidden", False)
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-secret")
    with calibrated.Upstream() as server:
        yield server


@asynccontextmanager
async def calibrated_gateway(
    upstream: calibrated.Upstream, folder: Path, **changes: Any
) -> AsyncGenerator[tuple[Gateway, Path]]:
    file = folder / "calibration.json"
    calibrated.write(file, ACCEPTS)
    config = configured(upstream, folder, auth=False, cascade={"calibrator": str(file)}, **changes)
    async with gateway(config) as running:
        yield running, file


async def tier(running: Gateway) -> str:
    answer = await running.ask()
    assert answer.status_code == 200, answer.text
    return str(answer.json()["tier"])


async def test_a_changed_file_is_taken_on_by_itself(
    upstream: calibrated.Upstream, tmp_path: Path
) -> None:
    async with calibrated_gateway(upstream, tmp_path) as (running, file):
        assert await tier(running) == "small"
        calibrated.write(file, REJECTS)
        await until(lambda: running.service.reloads.counts, "loading")
        assert await tier(running) == "large"
        assert running.service.reloads.counts == {("support", "done"): 1}


async def test_a_broken_file_keeps_the_old_one_and_says_so(
    upstream: calibrated.Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with calibrated_gateway(upstream, tmp_path) as (running, file):
        file.write_text("{", encoding="utf-8")
        await until(lambda: running.service.reloads.counts, "loading")
        assert await tier(running) == "small"
        ready = await running.get("/readyz")
        shown = (await running.get("/metrics")).text
        assert ready.status_code == 200
        assert "calibration.json" in ready.json()["calibration_problems"]["support"]
        assert 'cascade_calibration_stale{cascade="support"} 1.0' in shown
        assert 'cascade_reloads_total{cascade="support",result="failed"} 1.0' in shown
        calibrated.write(file, REJECTS)
        await until(lambda: not running.service.reloads.problems, "mending")
        assert await tier(running) == "large"
    assert "support: goes on with its old calibration" in caplog.text


@pytest.mark.parametrize("wrong", ["gone", "other models"])
async def test_a_file_that_is_gone_or_for_other_models_keeps_the_old_one(
    upstream: calibrated.Upstream, tmp_path: Path, wrong: str
) -> None:
    async with calibrated_gateway(upstream, tmp_path) as (running, file):
        if wrong == "gone":
            file.unlink()
        else:
            calibrated.write(file, REJECTS, small="openai:other")
        await until(lambda: running.service.reloads.problems, "loading")
        assert await tier(running) == "small"


async def test_no_request_is_dropped_while_calibrations_change(
    upstream: calibrated.Upstream, tmp_path: Path
) -> None:
    async with calibrated_gateway(upstream, tmp_path) as (running, file):
        done = False
        codes: list[int] = []

        async def asking() -> None:
            while not done:
                codes.append((await running.ask()).status_code)

        crowd = [asyncio.create_task(asking()) for _ in range(8)]
        for number in range(4):
            calibrated.write(file, REJECTS if number % 2 else ACCEPTS)
            loaded = await running.client.post("/admin/reload")
            assert loaded.json()[0]["problem"] is None
            seen = len(codes)
            await until(lambda seen=seen: len(codes) > seen + 4, "answers")
        done = True
        await asyncio.gather(*crowd)
        served = running.service.served["support"]
        await until(lambda: len(served._leases) == 1, "closing the old ones")
    assert len(codes) > 16
    assert set(codes) == {200}


async def test_a_running_request_finishes_on_the_old_one_which_is_closed_afterwards(
    upstream: calibrated.Upstream, tmp_path: Path
) -> None:
    told = [{"token": "Paris", "logprob": -0.1, "top_logprobs": []}]
    upstream.will(replies.json_reply(replies.openai_body(logprobs=told), delay_s=4))
    async with calibrated_gateway(upstream, tmp_path) as (running, file):
        old = running.service.served["support"].cascade
        closed = asyncio.Event()
        close = old.aclose

        async def closing() -> None:
            await close()
            closed.set()

        old.aclose = closing  # type: ignore[method-assign]
        slow = asyncio.create_task(running.ask())
        await upstream.has_received(1)
        calibrated.write(file, REJECTS)
        await running.client.post("/admin/reload")
        assert await tier(running) == "large"
        assert not closed.is_set()
        assert (await slow).json()["tier"] == "small"
        await until(closed.is_set, "closing")


async def test_the_mode_that_was_set_stays(upstream: calibrated.Upstream, tmp_path: Path) -> None:
    async with calibrated_gateway(upstream, tmp_path) as (running, _):
        changed = await running.client.put("/admin/cascades/support/mode", json={"mode": "shadow"})
        assert changed.json()["mode"] == "shadow"
        await running.client.post("/admin/reload")
        assert (await running.get("/admin/cascades")).json()[0]["mode"] == "shadow"


async def test_sighup_loads_again(upstream: calibrated.Upstream, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    calibrated.write(file, ACCEPTS)
    options = {"cascade": {"calibrator": "calibration.json"}, "watch_s": 600}
    async with process(upstream, tmp_path, **options) as running:
        assert (await running.ask()).json()["tier"] == "small"
        calibrated.write(file, REJECTS)
        os.kill(running.process.pid, signal.SIGHUP)
        for _ in range(300):
            if (await running.ask()).json()["tier"] == "large":
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("it was not loaded")
