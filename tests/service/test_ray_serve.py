"""The gateway on a real Ray Serve: deploy/ray/ with two replicas on one PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from decimal import Decimal

import asyncpg
import httpx
import openai
import pytest

from cascade.models.base import guard
from cascade.service.shared.calibrations import Calibrations
from tests.servers import replies
from tests.service import calibrated
from tests.service.calibrated import Upstream
from tests.service.ray_serving import Cluster, alive, cluster, descendants, end, until

PATH = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "Capital?"}]
QUESTION = {"model": "assistant", "messages": ASKED}


@pytest.fixture(scope="module")
def serving(postgres_server: str) -> Iterator[Cluster]:
    async def create() -> None:
        connection = await asyncpg.connect(postgres_server)
        await connection.execute("CREATE DATABASE ray_serve")
        await connection.close()

    asyncio.run(create())
    address = postgres_server.removesuffix("postgres") + "ray_serve"
    with Upstream() as upstream, cluster(address, upstream) as made:
        yield made


@pytest.fixture
async def http(
    serving: Cluster, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[httpx.AsyncClient]:
    monkeypatch.setattr(guard, "forbidden", False)
    async with serving.client() as client:
        yield client


async def ledger_has(serving: Cluster, n: int, *outcomes: str) -> None:
    """Wait until so many calls are in the ledger, or so many that ended so; `begun` have not."""
    for _ in range(100):
        found = [entry for entry in await serving.entries() if entry.model is not None]
        told = Counter(str(entry.outcome) for entry in found)
        told["begun"] = await serving.unfinished()
        if sum(told[outcome] for outcome in outcomes or told) >= n:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{n} calls were made, and the ledger has {told}")


async def test_official_client(serving: Cluster, http: httpx.AsyncClient) -> None:
    client = openai.AsyncOpenAI(base_url=f"{serving.url}/v1", api_key=serving.key, max_retries=0)
    async with client:
        plain = await client.chat.completions.with_raw_response.create(
            model="assistant",
            messages=[{"role": "user", "content": "Capital?"}],
            extra_headers={"X-Request-Id": "mine"},
        )
        stream = await client.chat.completions.create(
            model="assistant", messages=[{"role": "user", "content": "Capital?"}], stream=True
        )
        said = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert plain.parse().choices[0].message.content == "Paris" == "".join(said)
    assert plain.headers["x-cascade-tier"] == "small"
    assert plain.headers.get_list("x-request-id") == ["mine"]
    refused = await http.get("/v1/models", headers={"authorization": "Bearer csk_none"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_a_stream_comes_as_it_is_written_and_is_left_half_way(
    serving: Cluster, http: httpx.AsyncClient
) -> None:
    before = len(serving.upstream.received)
    unsure = replies.openai_reply("a", logprobs=[{"token": "a", "logprob": -3.0}])
    half = replies.sse([replies.openai_delta(content="Par")], done=False, ending="hang")
    serving.upstream.will(unsure, half)
    async with http.stream("POST", PATH, json={**QUESTION, "stream": True}) as response:
        async for line in response.aiter_lines():
            if "Par" in line:  # the upstream has not ended, and never will
                break
    await serving.upstream.has_received(before + 2)
    assert await asyncio.to_thread(serving.upstream.last.left.wait, 10)
    await ledger_has(serving, 1, "cancelled")


async def test_a_client_that_goes_away_cancels_the_call(
    serving: Cluster, http: httpx.AsyncClient
) -> None:
    before = len(serving.upstream.received)
    serving.upstream.will(replies.HANG)
    asking = asyncio.create_task(http.post(PATH, json=QUESTION))
    await serving.upstream.has_received(before + 1)
    asking.cancel()
    assert await asyncio.to_thread(serving.upstream.last.left.wait, 10)
    await ledger_has(serving, 2, "cancelled")


async def test_a_body_that_is_too_long_is_refused_in_the_words_of_its_protocol(
    http: httpx.AsyncClient,
) -> None:
    long = {**QUESTION, "messages": [{"role": "user", "content": "a" * 2**21}]}
    refused = await http.post(PATH, json=long)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_long")


async def test_wrong_keys_are_counted_by_the_address_that_a_proxy_tells(
    serving: Cluster, http: httpx.AsyncClient
) -> None:
    async def ask(number: int, address: str) -> int:
        wrong = f"Bearer csk_{number:043d}"
        headers = {"authorization": wrong, "x-forwarded-for": address}
        return (await http.get("/v1/models", headers=headers)).status_code

    told = [await ask(number, "203.0.113.7") for number in range(60)]
    assert told[0] == 401
    assert told[-1] == 429  # each replica counts for itself
    assert await ask(100, "203.0.113.8") == 401
    assert (await http.get("/v1/models")).status_code == 200


async def test_a_budget_is_shared(serving: Cluster, http: httpx.AsyncClient) -> None:
    asked = {**QUESTION, "max_tokens": 10}
    secret = await serving.new_key("poor", day_usd=Decimal("0.002"))
    async with serving.client(secret) as poor:
        answers = await asyncio.gather(*(poor.post(PATH, json=asked) for _ in range(40)))
    codes = Counter(answer.status_code for answer in answers)
    assert set(codes) == {200, 402}
    spent = sum(Decimal(a.headers["x-cascade-cost-usd"]) for a in answers if a.status_code == 200)
    assert 0 < spent <= Decimal("0.002")


async def test_a_killed_replica_is_replaced_and_no_call_is_lost(
    serving: Cluster, http: httpx.AsyncClient
) -> None:
    first, second = sorted(serving.replicas())
    seen: Counter[int] = Counter()
    over = asyncio.Event()

    async def asks() -> None:
        while not over.is_set():
            seen[(await http.post(PATH, json=QUESTION)).status_code] += 1

    asking = [asyncio.create_task(asks()) for _ in range(4)]
    await until(lambda: seen[200] >= 20, "answers")
    os.kill(first, signal.SIGKILL)
    before = seen[200]
    await until(lambda: seen[200] >= before + 20, "answers of the other replica")
    await until(lambda: len({*serving.replicas()} - {first}) == 2, "another replica", 120)
    over.set()
    await asyncio.gather(*asking)
    assert second in serving.replicas()
    assert set(seen) <= {200, 500, 503}
    await ledger_has(serving, len(serving.upstream.received))


async def told_by_all(http: httpx.AsyncClient, header: str, value: str) -> None:
    """Wait until every answer says so."""
    for _ in range(100):
        answers = [await http.post(PATH, json=QUESTION) for _ in range(12)]
        if {answer.headers[header] for answer in answers} == {value}:
            return
    raise AssertionError({answer.headers[header] for answer in answers})


async def test_a_calibration_is_rolled_out_to_all_replicas(
    serving: Cluster, http: httpx.AsyncClient
) -> None:
    before = serving.replicas()
    assert before
    calibrated.write(serving.folder / "strict.json", 0.1)
    calibrations = Calibrations(serving.ledger)
    rolled = await calibrations.push("assistant", (serving.folder / "strict.json").read_text())
    try:
        assert rolled.replicas
        await told_by_all(http, "x-cascade-calibrated", "true")
        await told_by_all(http, "x-cascade-tier", "large")
    finally:
        await calibrations.rollback("assistant")
        await calibrations.aclose()
    await told_by_all(http, "x-cascade-tier", "small")
    assert alive(before) == before


async def test_a_mode_is_changed_in_all_replicas_and_restarts_none(
    serving: Cluster, http: httpx.AsyncClient
) -> None:
    before = serving.replicas()
    await told_by_all(http, "x-cascade-tier", "small")
    serving.deploy(user_config={"modes": {"assistant": "shadow"}})
    await told_by_all(http, "x-cascade-tier", "large")
    assert alive(before) == before


async def test_a_replica_that_is_not_needed_answers_what_it_has_before_it_leaves(
    serving: Cluster, http: httpx.AsyncClient
) -> None:
    before = serving.replicas()
    received = len(serving.upstream.received)
    slow = replies.openai_reply("Paris", delay_s=2, logprobs=[{"token": "a", "logprob": -0.1}])
    serving.upstream.will(*[slow] * 8)
    asking = [asyncio.create_task(http.post(PATH, json=QUESTION)) for _ in range(8)]
    await serving.upstream.has_received(received + 8)
    serving.deploy(min_replicas=1, max_replicas=1)
    assert {(await one).status_code for one in asking} == {200}
    await until(lambda: len(alive(before)) == 1, "the end of one replica")
    assert (await http.post(PATH, json=QUESTION)).status_code == 200


async def test_it_ends_with_all_written_and_leaves_nothing(serving: Cluster) -> None:
    assert len(descendants(serving.process.pid)) > 5
    assert await asyncio.to_thread(end, serving.process) == (0, [])
    await ledger_has(serving, len(serving.upstream.received))
    logs = serving.logs()
    assert "Gateway" in logs
    assert serving.key not in logs
    assert "sk-of-the-" not in logs
