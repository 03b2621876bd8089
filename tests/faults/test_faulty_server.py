"""The upstream with faults does what it is told, the same for the same seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from cascade.errors import ModelError
from cascade.models import Request
from cascade.models.openai import OpenAIModel
from tests.models.asking import question
from tests.servers.faults import FAULTS, Fault, named
from tests.servers.faulty import FINE, FaultyServer, Latency

QUICK = tuple(named(name) for name in ("status 500", "status 429", "empty answer", "no choices"))


async def ask(server: FaultyServer, n: int, model: str = "small") -> list[str]:
    """Ask so often, one after the other; gives the faults that were met."""
    asked = OpenAIModel(model, base_url=server.openai_url, api_key="k")
    for _ in range(n):
        await _once(asked, question())
    await asked.aclose()
    return [call.fault for call in server.seen(model)]


async def _once(model: OpenAIModel, request: Request) -> None:
    with suppress(ModelError):
        await model.complete(request)


async def faults_of(seed: int, share: float = 0.5, n: int = 30) -> list[str]:
    with FaultyServer(seed=seed, shares={"small": share}, faults=QUICK) as server:
        return await ask(server, n)


async def test_equal_seeds_give_equal_faults() -> None:
    first, again, other = await faults_of(1), await faults_of(1), await faults_of(2)
    assert first == again != other
    assert FINE in first
    assert set(first) <= {FINE, *(fault.name for fault in QUICK)}


async def test_a_greater_share_keeps_the_faults_of_a_smaller_one() -> None:
    few, many = await faults_of(1, 0.2), await faults_of(1, 0.8)
    assert all(more == less for less, more in zip(few, many, strict=True) if less != FINE)
    assert many.count(FINE) < few.count(FINE)


@pytest.mark.parametrize(("share", "fine"), [(0.0, 10), (1.0, 0)])
async def test_a_share_of_nothing_or_all(share: float, fine: int) -> None:
    assert (await faults_of(1, share, 10)).count(FINE) == fine


async def test_other_models_have_no_part_in_the_faults_of_one() -> None:
    with FaultyServer(shares={"small": 1.0}, faults=QUICK) as server:
        assert await ask(server, 5, "large") == [FINE] * 5


async def test_a_script_comes_before_what_always_happens() -> None:
    with FaultyServer() as server:
        server.scripts["small"] = deque([named("status 400"), None])
        server.always["small"] = named("status 503")
        assert await ask(server, 4) == ["status 400", FINE, "status 503", "status 503"]
        assert server.sent == {
            ("small", "status 400"): 1,
            ("small", FINE): 1,
            ("small", "status 503"): 2,
        }


async def test_only_the_last_calls_are_kept_and_all_are_counted() -> None:
    with FaultyServer(kept=3) as server:
        await ask(server, 10)
        assert [call.number for call in server.calls] == [8, 9, 10]
        assert server.n_sent == 10


async def test_a_reply_tells_its_number_in_its_usage() -> None:
    with FaultyServer() as server:
        model = OpenAIModel("small", base_url=server.openai_url, api_key="k")
        answers = await asyncio.gather(*(model.complete(question(str(n))) for n in range(5)))
        asked = {call.number: call.asked.question for call in server.calls}
        await model.aclose()
    assert [asked[answer.usage.input_tokens or 0] for answer in answers] == list("01234")


def test_latencies_are_those_of_the_seed_and_have_an_end() -> None:
    latency = Latency(0.1, sigma=2.0, longest_s=1.0)
    first, again = (latency.draw(random.Random(7)) for _ in range(2))
    chance = random.Random(1)
    drawn = [latency.draw(chance) for _ in range(500)]
    assert first == again
    assert 0 < min(drawn) < 0.1 < max(drawn) <= 1.0
    assert Latency(0.1, sigma=0.0).draw(random.Random(1)) == pytest.approx(0.1)


def test_every_fault_strikes_somewhere() -> None:
    def places(faults: Sequence[Fault]) -> Counter[tuple[Any, Any]]:
        return Counter((p, f) for fault in faults for p in fault.protocols for f in fault.forms)

    assert all(fault.protocols and fault.forms and fault.meaning for fault in FAULTS)
    assert set(places(FAULTS)) == {
        (protocol, form) for protocol in ("openai", "ollama") for form in ("plain", "stream")
    }
