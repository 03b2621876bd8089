"""The ways of a question through the agents, each under both drivers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cascade import Cascade, Decision, Situation, Tier, Verdict
from cascade.confidence import Estimate, Probe, Signal
from cascade.driving import Driver
from cascade.errors import AuthenticationError, CascadeError, ModelUnavailableError
from cascade.kernel import Kernel
from cascade.middleware import CascadeMiddleware, Fallback, Retries, ToolRisks
from cascade.models import Request
from cascade.run import Answer
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply
from tests.kernel.drivers import PRICE, cascade_of, scripted

Make = Callable[[], Cascade]
DOWN = ModelUnavailableError("503 from the server", model="scripted:l")
DRAFTED = ["draft", "self_check", "verify"]
CALL = {"name": "delete", "args": {"x": 1}, "id": "1", "type": "tool_call"}
TOOLS = [{"type": "function", "function": {"name": "delete", "parameters": {}}}]


class Observing:
    """A policy that takes one more signal where it can."""

    def decide(self, situation: Situation) -> Decision:
        if situation.next_signal is not None:
            return Decision(action="observe", reason="one more")
        return Decision(action="accept", reason="enough")


class Free(Signal):
    """A signal that costs nothing."""

    name = "free"

    def read(self, asked: Any, replies: Any) -> dict[str, float]:
        return {self.name: 0.5}

    def score(self, features: Any) -> float:
        return 0.5


class Paid(Free):
    """A signal that asks the drafting model once."""

    name, calls = "paid", 1

    def probes(self, asked: Any, replies: Any) -> Any:
        return () if replies else [Probe(tuple(asked.messages))]


class TwoStages:
    """A calibrator of both."""

    calibrated = True
    signals = ("free", "paid")

    def mismatch(self, messages: Any) -> None:
        return None

    def estimate(self, features: Any, taken: Any) -> Any:
        return Estimate(0.6)

    def outlook(self, confidence: float, taken: Any) -> tuple[float, ...]:
        return (0.2, 0.9)


class Asking:
    """A policy that asks a person."""

    def decide(self, situation: Situation) -> Decision:
        return Decision(action="ask", reason="a person has to see this")


class Known(CascadeMiddleware):
    """A middleware that answers."""

    async def before_run(self, run: Any, runtime: Any) -> Answer:
        return Answer(Completion("known", "m", tier="small"), None, "small")


def observing() -> Cascade:
    cascade = cascade_of(signals=[Free(), Paid()], policy=Observing())
    parts = replace(cascade.kernel.parts, calibrators={"small": TwoStages()})
    cascade.kernel = Kernel(parts)
    cascade._driver = Driver(cascade.kernel)
    return cascade


def three_tiers() -> Cascade:
    models = [scripted(sure=0.1), scripted("Melbourne", name="m"), scripted(name="l")]
    names = ("small", "middle", "large")
    priced = zip(models, names, strict=True)
    return Cascade(tiers=[Tier(m, name=name, price=PRICE["small"]) for m, name in priced])


def raises(question: str, answer: str) -> float:
    raise KeyError("oh")


def unsure(large: Any = None, middleware: Any = (), **options: Any) -> Make:
    """A cascade whose draft is not sure of itself."""
    return lambda: cascade_of(scripted(sure=0.2), large, middleware, **options)


def with_runtime(question: str, answer: str, runtime: Any) -> bool:
    return runtime.kernel is not None


def with_run(question: str, answer: str, run: Any) -> bool:
    return bool(run.draft.text == answer)


OTHER = Tier(scripted("Canberra, says another", name="o"), price=PRICE["large"])
NO = Verdict(accept=False, reason="no")
ESCALATED = [*DRAFTED, "expert"]
DEGRADED = [*DRAFTED, *["expert"] * 3]
WAYS: dict[str, tuple[Make, str, list[str], str]] = {
    "a sure draft": (cascade_of, "small", DRAFTED, "score"),
    "an unsure draft": (unsure(), "large", ESCALATED, "score"),
    "a router": (unsure(router=lambda _: "large"), "large", ["router", "expert"], "named large"),
    "a middle tier": (three_tiers, "middle", DRAFTED * 2, "score"),
    "one more signal": (observing, "small", [*DRAFTED, "self_check", "verify"], "enough"),
    "a middleware that answers": (unsure(middleware=[Known()]), "small", ["known"], ""),
    "a small model that is down": (
        lambda: cascade_of(scripted([DOWN]), middleware=[Retries(1)]),
        "large",
        ["draft", "expert"],
        "small failed",
    ),
    "a large model that is down": (unsure(scripted([DOWN])), "small", DEGRADED, ""),
    "another large model": (
        unsure(scripted([DOWN]), [Fallback(OTHER), Retries(2, base_s=0)]),
        "fallback",
        DEGRADED,
        "",
    ),
    "a verifier that rejects": (unsure(verifier=lambda q, a: NO), "large", ESCALATED, "no"),
    "a verifier that accepts": (unsure(verifier=lambda q, a: 0.95), "small", DRAFTED, ""),
    "a verifier with a runtime": (unsure(verifier=with_runtime), "small", DRAFTED, ""),
    "a verifier with the run": (unsure(verifier=with_run), "small", DRAFTED, ""),
    "a verifier that raises": (unsure(verifier=raises), "large", ESCALATED, "raised KeyError"),
    "a signal of another scale": (
        unsure(signals=[lambda question, answer: 87]),
        "large",
        ESCALATED,
        "<lambda>=87 is outside [0, 1]",
    ),
    "a signal that raises": (unsure(signals=[raises]), "large", ESCALATED, "raised KeyError"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_question_goes_its_way(driver: Any, way: str) -> None:
    make, tier, nodes, reason = WAYS[way]
    outcome = await driver(make()).ask()
    result = outcome.result
    assert (result.tier, outcome.nodes) == (tier, nodes)
    assert reason in result.decision.reason
    assert outcome.shown == result.answer
    assert result.escalated == (tier != "small")
    assert result.degraded == (way in ("a large model that is down", "another large model"))
    assert result.cached == (way == "a middleware that answers")
    assert (result.ledger.cost_usd is None) == (way == "a verifier that raises")


@pytest.mark.parametrize(
    ("said", "tier", "answer"),
    [
        ("accept", "small", "Sydney perhaps"),
        ("escalate", "large", "Canberra it is"),
        ("reject", "small", ""),
        ({"answer": "Canberra!"}, "person", "Canberra!"),
    ],
)
async def test_a_person_decides(driver: Any, said: Any, tier: str, answer: str) -> None:
    driven = driver(cascade_of(policy=Asking()))
    paused = await driven.ask()
    assert (paused.run.step, paused.shown, paused.result) == ("person", "", None)
    outcome = await driven.resume(said)
    assert (outcome.result.tier, outcome.result.answer) == (tier, answer)
    assert outcome.shown == answer
    assert (outcome.nodes.count("draft"), outcome.nodes.count("person")) == (1, 1)


async def test_an_irreversible_call_of_the_large_model_waits_for_a_person(driver: Any) -> None:
    large = scripted([reply("", tool_calls=[CALL])], name="l")
    risks = ToolRisks({"delete": "irreversible"}, irreversible="ask")
    driven = driver(cascade_of(scripted(sure=0.1), large, middleware=[risks], tools=TOOLS))
    paused = await driven.ask()
    assert (paused.run.step, paused.shown) == ("person", "")
    outcome = await driven.resume("accept")
    assert outcome.result.message.tool_calls[0]["name"] == "delete"
    assert len(large.requests) == 1


async def test_settings_travel_with_the_question(driver: Any) -> None:
    small = scripted()
    driven = driver(cascade_of(small))
    await driven.ask(max_tokens=7, stop=["END"])
    await driven.ask()
    assert [r.max_tokens for r in small.requests] == [7, None]
    assert small.requests[0].stop == ("END",)


async def test_settings_are_sent_as_what_they_mean() -> None:
    small = scripted()
    await cascade_of(small).ainvoke("?", max_tokens=np.int64(7), temperature="0.5")
    sent = small.requests[0]
    assert (sent.max_tokens, type(sent.max_tokens), sent.temperature) == (7, int, 0.5)


def irreversible_draft() -> Cascade:
    small = scripted([reply("", tool_calls=[CALL], call_probability=0.9)])
    return cascade_of(small, scripted([DOWN]), [ToolRisks({"delete": "irreversible"})], tools=TOOLS)


REFUSED = AuthenticationError("401: wrong key", model="scripted:s")
OBJECT = {"type": "object"}


@pytest.mark.parametrize(
    ("make", "error", "first"),
    [
        (lambda: cascade_of(scripted([REFUSED])), AuthenticationError, ["draft"]),
        (unsure(scripted([DOWN]), response_format=OBJECT), ModelUnavailableError, DRAFTED),
        (irreversible_draft, ModelUnavailableError, DRAFTED),
    ],
    ids=["a wrong key", "a draft that is ruled out", "an irreversible draft"],
)
async def test_what_may_be_no_answer_is_an_error_with_what_was_spent(
    make: Make, error: type[CascadeError], first: list[str]
) -> None:
    with pytest.raises(error) as raised:
        await make().ainvoke("?")
    assert raised.value.ledger is not None
    assert [entry.node for entry in raised.value.ledger][: len(first)] == first


def test_where_a_server_sends_no_log_probabilities_the_model_is_asked_itself() -> None:
    def says(request: Request) -> str:
        return "True" if "True" in request.messages[-1].text else "Canberra"

    silent = ScriptedModel(says, returns_logprobs=True)
    result = Cascade(silent, ScriptedModel("no")).invoke("Capital of Australia?")
    assert (result.answer, result.confidence) == ("Canberra", 1.0)
    assert len(silent.requests) == 2
