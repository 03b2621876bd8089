"""A calibration of the gateway is spoiled, half written or cannot be checked when it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascade.service import reload
from tests.failing.worlds import until
from tests.service import calibrated
from tests.service.test_reload import ACCEPTS, REJECTS, calibrated_gateway, tier, upstream

__all__ = ["upstream"]


async def test_a_file_that_is_half_written_is_loaded_when_it_is_whole(
    upstream: calibrated.Upstream, tmp_path: Path
) -> None:
    async with calibrated_gateway(upstream, tmp_path) as (running, file):
        calibrated.write(file, REJECTS)
        whole = file.read_bytes()
        calibrated.write(file, ACCEPTS)
        file.write_bytes(whole[: len(whole) // 2])
        await until(lambda: bool(running.service.reloads.problems))
        assert await tier(running) == "small"
        file.write_bytes(whole)
        await until(lambda: not running.service.reloads.problems)
        assert await tier(running) == "large"


async def test_a_check_that_fails_as_nobody_thought_keeps_the_old_one_and_the_watch(
    upstream: calibrated.Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calibrated_gateway(upstream, tmp_path) as (running, file):

        async def fail(*_: object) -> None:
            raise RuntimeError("no one thought of it")

        with monkeypatch.context() as patch:
            patch.setattr(reload, "check_weights", fail)
            calibrated.write(file, REJECTS)
            await until(lambda: bool(running.service.reloads.problems))
            assert "no one thought of it" in running.service.reloads.problems["support"]
            assert await tier(running) == "small"
        calibrated.write(file, REJECTS, small="openai:other")
        calibrated.write(file, REJECTS)
        await until(lambda: not running.service.reloads.problems)
        assert await tier(running) == "large"


async def test_a_look_that_fails_is_not_the_last_one(
    upstream: calibrated.Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calibrated_gateway(upstream, tmp_path) as (running, file):
        reloads, looked = running.service.reloads, []

        async def fail() -> list[reload.Loaded]:
            looked.append(True)
            raise RuntimeError("no one thought of it")

        with monkeypatch.context() as patch:
            patch.setattr(reloads, "look", fail)
            await until(lambda: len(looked) > 1)
        calibrated.write(file, REJECTS)
        await until(lambda: bool(reloads.counts))
        assert await tier(running) == "large"
