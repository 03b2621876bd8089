"""What a client is told of each kind of error, and what becomes of those at the edges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi.responses import StreamingResponse

from cascade.errors import (
    AuthenticationError,
    CascadeError,
    ConfigurationError,
    DeadlineError,
    InputError,
    LedgerError,
    LocalOnlyError,
    ModelUnavailableError,
    RateLimitError,
)
from cascade.service.checking import reach_ledger
from cascade.service.faults import ServiceError, fault_of
from cascade.service.reading import read_settings
from tests.servers.fake import FakeServer
from tests.service.gateway import configured, gateway, until

MODEL = "openai:large"
FAULTS = [
    (ServiceError(418, "tea"), 418, None),
    (InputError("empty"), 400, "invalid_input"),
    (RateLimitError("slow down", model=MODEL), 429, "upstream_rate_limit"),
    (LocalOnlyError("stays", model=MODEL), 403, "local_only"),
    (DeadlineError("late", model=MODEL), 504, "deadline_exceeded"),
    (ModelUnavailableError("down", model=MODEL), 502, "upstream_failed"),
    (AuthenticationError("wrong key", model=MODEL), 502, "upstream_failed"),
    (LedgerError("gone"), 503, "ledger_unavailable"),
    (ConfigurationError("odd"), 500, "cascade_failed"),
    (CascadeError("odd"), 500, "cascade_failed"),
    (ValueError("a prompt"), 500, "internal_error"),
]


@pytest.mark.parametrize(("error", "status", "code"), FAULTS, ids=lambda x: type(x).__name__)
def test_each_kind_of_error_has_its_status_and_code(
    error: Exception, status: int, code: str | None
) -> None:
    fault = fault_of(error)
    assert (fault.status, fault.code) == (status, code)
    assert fault.openai()["error"]["message"] == fault.message
    assert fault.ollama() == {"error": fault.message}
    assert "a prompt" not in fault.message


@pytest.mark.parametrize(("asked", "told"), [(None, "1"), (0.2, "1"), (6.4, "7")])
def test_how_long_a_provider_asks_to_wait_is_passed_on(asked: float | None, told: str) -> None:
    fault = fault_of(RateLimitError("slow down", model=MODEL, retry_after=asked))
    assert fault.headers == {"Retry-After": told}


async def test_an_answer_that_breaks_off_says_nothing_of_why(
    upstream: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = "".join(["hunter", "2"])

    async def breaking() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError(words)

    async with gateway(configured(upstream, tmp_path)) as running:

        @running.app.get("/test/stream")
        async def stream() -> StreamingResponse:
            return StreamingResponse(breaking())

        with pytest.raises(Exception, match=r"incomplete|peer|closed"):
            await running.get("/test/stream")
    assert words not in caplog.text
    assert "ValueError" in caplog.text


async def test_an_old_cascade_that_cannot_be_closed_is_told_and_harms_nobody(
    upstream: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing() -> None:
        raise LedgerError("gone")

    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        served = running.service.served["support"]
        old = served.cascade
        old.aclose = failing  # type: ignore[method-assign]

        async def swap() -> None:
            served.swap(running.service.reloads._build("support"))

        await running.in_loop(swap())
        await until(lambda: "could not be closed" in caplog.text, "telling")
        assert (await running.ask()).status_code == 200


async def test_work_after_replies_does_not_hold_up_the_end_for_ever(
    upstream: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(upstream, tmp_path, auth=False, shutdown_grace_s=0.1)
    async with gateway(config) as running:
        await running.ask()
        running.service.served["support"].cascade.aclose = asyncio.Event().wait  # type: ignore[assignment,method-assign]
    assert "work after replies was left after 0.1 s" in caplog.text


async def test_a_ledger_in_postgresql_is_reached_and_left_as_it_is(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = await asyncio.to_thread(request.getfixturevalue, "postgres_url")
    path = tmp_path / "c.yaml"
    tiers = "tiers: [{model: 'ollama:a'}, {model: 'ollama:b'}]"
    path.write_text(f"ledger: {url}\ncascades: {{a: {{{tiers}}}}}\n", encoding="utf-8")
    await reach_ledger(read_settings(path))
    memory = "ledger: memory://\nauth: false\n"
    path.write_text(f"{memory}cascades: {{a: {{{tiers}}}}}\n", encoding="utf-8")
    await reach_ledger(read_settings(path))


async def test_of_two_who_swap_while_nothing_runs_the_old_one_is_closed_at_once(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        served = running.service.served["support"]
        closed = asyncio.Event()

        async def closing() -> None:
            closed.set()

        served.cascade.aclose = closing  # type: ignore[method-assign]

        async def swap() -> None:
            served.swap(running.service.reloads._build("support"))

        await running.in_loop(swap())
        await until(closed.is_set, "closing")
