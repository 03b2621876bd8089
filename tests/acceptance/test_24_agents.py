"""Row 24: agents as tiers, with real LangGraph agents whose models answer over HTTP, and decision
models. What the server saw is what the ledger holds."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.decisions import Choice, Score
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langchain_openai.decisions import OpenAIDecisions
from langgraph.checkpoint.memory import InMemorySaver

from cascade import Cascade, MemoryLedger, Price, Tier
from cascade.errors import CascadeError
from cascade.integrations import AgentTier, DecisionSignal, DecisionVerifier
from cascade.middleware import Retries
from tests.acceptance import setups
from tests.acceptance.test_22_gateway import chat, serving
from tests.acceptance.upstream import Answer, Held, Seen, Upstream, failure
from tests.servers.fake import Handler, Server

Q = "How many people live in Canberra?"
CALL = ("population", {"city": "Canberra"})
RAN: list[str] = []


@tool
def population(city: str) -> int:
    """How many people live in a city."""
    return 460_000


@tool(extras={"risk": "irreversible"})
def delete(path: str) -> str:
    """Delete a file."""
    RAN.append(path)
    return "deleted"


def agent(upstream: Upstream, name: str, answer: Any, **options: Any) -> AgentTier:
    """An agent that looks a city up, and says what it is to say; or whose steps are a list."""

    def say(seen: Seen) -> Any:
        results = sum(message["role"] == "tool" for message in seen.body["messages"])
        if isinstance(answer, list):
            return answer[min(results, len(answer) - 1)]
        if not results:
            return Answer(calls=(CALL,))
        return answer(seen) if callable(answer) else answer

    upstream.says(name, say)
    made = create_agent(
        upstream.chat(name), [population, delete], checkpointer=options.pop("saver", None)
    )
    prices = {"openai:small": Price(input=1, output=2), "openai:large": Price(input=10, output=20)}
    return AgentTier(made, name=name, prices=prices, **{"takes_over": "hand_over", **options})


def pair(upstream: Upstream, small: Any = "five", **options: Any) -> Cascade:
    tiers = [
        agent(upstream, "small", small, **options.pop("of_small", {})),
        agent(upstream, "large", "460,000 people"),
    ]
    given = {"signals": ["trajectory"], "verifier": lambda _q, a: "460" in a, **options}
    return Cascade(*tiers, **given)


@pytest.mark.parametrize("how", setups.WAYS)
async def test_each_call_that_the_server_saw_is_an_entry(upstream: Upstream, how: str) -> None:
    store = MemoryLedger()
    assert await setups.ask(pair(upstream, ledger=store), how, Q) == "460,000 people"
    calls = [(e.node, e.tier, e.outcome) for e in store.entries if e.model]
    assert calls == [("draft", "small", "ok")] * 2 + [("expert", "large", "ok")] * 2
    tokens = [(e.input_tokens, e.output_tokens) for e in store.entries if e.model]
    assert tokens == [seen.usage for seen in upstream.seen]
    assert all(entry.cost_usd is not None for entry in store.entries)


async def test_agents_and_models_stand_in_any_order(upstream: Upstream) -> None:
    upstream.says("model", Answer("no idea", p=0.3))
    tiers = [
        upstream.tier("model", name="model"),
        Tier(agent(upstream, "small", "five"), name="agent"),
        Tier(agent(upstream, "large", "460,000 people"), name="strong"),
    ]
    options: dict[str, Any] = {"signals": ["trajectory"], "verifier": lambda _q, a: "460" in a}
    result = await Cascade(tiers=tiers, **options).ainvoke(Q)
    assert result.tier == "strong"
    nodes = [(e.node, e.tier) for e in result.ledger if e.model]
    assert nodes == [("draft", "model"), *[("draft", "agent")] * 2, *[("expert", "strong")] * 2]


async def test_questions_side_by_side_get_their_own_answers(upstream: Upstream) -> None:
    def answers(seen: Seen) -> Answer:
        return Answer(f"460 for {seen.texts[0]}")

    store = MemoryLedger()
    cascade = pair(upstream, answers, ledger=store)
    questions = [f"question {i}?" for i in range(12)]
    results = await cascade.abatch(questions)
    assert [result.answer for result in results] == [f"460 for {q}" for q in questions]
    assert [len([e for e in r.ledger if e.model]) for r in results] == [2] * 12


async def test_a_run_goes_on_in_another_process_where_it_was_interrupted(
    upstream: Upstream,
) -> None:
    """The first model call of the run is not paid for again."""
    saver, kept, config = InMemorySaver(), InMemorySaver(), {"configurable": {"thread_id": "t"}}
    asked: Any = {"messages": [("human", Q)]}
    steps = [Answer(calls=(CALL,)), failure(401)]
    broken = pair(upstream, steps, of_small={"saver": saver}, middleware=[Retries(1)])
    with pytest.raises(CascadeError):
        await broken.build_graph().compile(checkpointer=kept).ainvoke(asked, config)
    again = pair(upstream, [Answer(calls=(CALL,)), "460"], of_small={"saver": saver})
    state = await again.build_graph().compile(checkpointer=kept).ainvoke(None, config)
    assert "460" in state["messages"][-1].text
    assert len(upstream.asked("small")) == 3


async def test_a_run_is_stopped_early_and_its_cost_until_then_is_booked(upstream: Upstream) -> None:
    def stop(task: Any, run: Any) -> str | None:
        results = [message for message in run if isinstance(message, ToolMessage)]
        return "hopeless" if results else None

    cascade = pair(upstream, "460", of_small={"stop": stop})
    result = await cascade.ainvoke(Q)
    assert (result.tier, len(upstream.asked("small"))) == ("large", 1)
    assert "hopeless" in result.decision.reason
    assert sum(entry.node == "draft" for entry in result.ledger) == 1


# --- the gateway in front

MADE = """
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from cascade import Price
from cascade.integrations import AgentTier

@tool
def population(city: str) -> int:
    "How many people live in a city."
    return 460_000

def made(name, url, *more):
    chat = ChatOpenAI(model=name, base_url=url, api_key="k", max_retries=0, logprobs=True)
    return create_agent(chat, [population, *more])
"""
AGENTS = """
class agents:
    small = made("small", URL)
    prices = {"openai:large": Price(input=9, output=9)}
    large = AgentTier(made("large", URL), name="large", prices=prices)
"""


def test_agents_stand_behind_the_gateway(tmp_path: Path) -> None:
    def configure(folder: Path, upstream: Upstream, port: int) -> Path:
        (folder / "team.py").write_text(f"URL = {upstream.openai_url!r}" + MADE + AGENTS)
        tiers = [{"agent": "team:agents.small"}, {"agent": "team:agents.large"}]
        cascades = {"support": {"tiers": tiers, "signals": ["logprobs"], "threshold": 0.8}}
        listen, ledger = {"port": port}, "sqlite:///ledger.db"
        path = folder / "cascade.yaml"
        path.write_text(json.dumps({"listen": listen, "ledger": ledger, "cascades": cascades}))
        return path

    with serving(tmp_path, configure=configure) as served, served.client() as client:
        for name, p in (("small", 0.5), ("large", 0.9)):
            served.upstream.says(name, lambda seen, p=p: told(seen, p))
        assert chat(client).choices[0].message.content == "by large"
        pieces = chat(client, stream=True)
        streamed = "".join(c.choices[0].delta.content or "" for c in pieces if c.choices)
        assert streamed == "by large"
        assert sorted(served.upstream.models()) == ["large"] * 4 + ["small"] * 4
    kept, _ = asyncio.run(setups.booked(f"sqlite:///{tmp_path}/ledger.db"))
    assert [entry.node for entry in kept] == ["draft", "draft", "expert", "expert"] * 2
    assert all(entry.cost_usd for entry in kept if entry.tier == "large")


def told(seen: Seen, p: float) -> Answer:
    """What an agent's model says: first a call, then the answer."""
    looked_up = any(message["role"] == "tool" for message in seen.body["messages"])
    return Answer(f"by {seen.model}", p=p) if looked_up else Answer(calls=(CALL,), p=p)


# --- the law

DELETE = Answer(calls=(("delete", {"path": "a.txt"}),))
STEPS = {
    "call": Answer(calls=(CALL,)),
    "delete": DELETE,
    "fail": failure(500),
    "refuse": failure(400, "no"),
    "break": Answer("x", broken_after=0, raw="{"),
    "answer": Answer("five"),
    "right": Answer("460"),
}


@settings(max_examples=20)
@given(st.lists(st.sampled_from(list(STEPS)), min_size=1, max_size=5), st.integers(1, 6))
def test_whatever_becomes_of_a_run_each_call_is_booked_once_and_nothing_irreversible_ran(
    steps: list[str], killed_after: int
) -> None:
    RAN.clear()
    store = MemoryLedger()

    async def ask(upstream: Upstream) -> None:
        cascade = pair(upstream, [STEPS[s] for s in steps], ledger=store, middleware=[Retries(1)])
        asking = asyncio.create_task(cascade.ainvoke(Q))
        while len(upstream.seen) < killed_after and not asking.done():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.wait([asking])
        if not asking.cancelled() and asking.exception() is None:
            assert asking.result().answer or asking.result().message.tool_calls

    with Upstream() as upstream:
        asyncio.run(ask(upstream))
        entries = [entry for entry in store.entries if entry.model]
        assert len({entry.id for entry in entries}) == len(entries)
        # A call that was cancelled on its way may not have reached the server.
        given_up = sum(entry.outcome == "cancelled" for entry in entries)
        assert len(entries) - given_up <= len(upstream.seen) <= len(entries)
    assert RAN == []


KILLED = """
@tool(extras={"risk": "irreversible"})
def delete(path: str) -> str:
    "Delete a file."
    open(sys.argv[3], "w").close()
    return "deleted"

async def main(url, upstream):
    tiers = [AgentTier(made(name, upstream, delete), name=name, takes_over="hand_over")
             for name in ("small", "large")]
    options = {"signals": ["trajectory"], "verifier": lambda q, a: False}
    await Cascade(*tiers, ledger=open_store(url), **options).ainvoke("How many?")

asyncio.run(main(*sys.argv[1:3]))
"""


@pytest.mark.heavy
@pytest.mark.parametrize("after", [1, 2, 3, 4])
async def test_after_kill_9_each_call_is_in_the_ledger_once_or_listed_as_unknown(
    upstream: Upstream, sqlite_url: str, tmp_path: Path, after: int
) -> None:
    def say(seen: Seen) -> Answer:
        results = sum(message["role"] == "tool" for message in seen.body["messages"])
        held = Held() if len(upstream.seen) >= after else None
        return Answer(calls=(DELETE.calls[0] if results else CALL,), held=held)

    for name in ("small", "large"):
        upstream.says(name, say)
    ran = tmp_path / "ran"
    victim = setups.start(setups.PAIR + MADE + KILLED, sqlite_url, upstream.openai_url, ran)
    await upstream.has_asked(after)
    victim.kill()
    victim.communicate()
    kept, unknown = await setups.booked(sqlite_url)
    assert len({entry.id for entry in kept}) == len(kept)
    assert len(kept) + len(unknown) == len(upstream.seen) == after
    assert not ran.exists()


# --- decision models


class Decisions(Server):
    """OpenAI's decisions: so sure of each question; `refuse` in the input is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def routes(self) -> Mapping[str, Handler]:
        return {"POST /{path:.*}": self._decide}

    async def _decide(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked += 1
        (question,) = body["questions"]
        answer: dict[str, Any] = {"name": question["name"], "type": question["type"]}
        if "refuse" in json.dumps(body["input"]):
            answer["type"] = "refusal"
        elif question["type"] == "predicate":
            answer["probability"] = 0.2
        elif question["type"] == "choice":
            listed = [{"value": c["value"], "probability": 0.2} for c in question["choices"]]
            answer |= {"choice": "right", "confidence": 0.5, "probabilities": listed}
        else:
            levels = enumerate(question["levels"])
            listed = [{"value": i, "label": str(each), "probability": 0.5} for i, each in levels]
            answer |= {"score": 0.4, "confidence": 0.5, "probabilities": listed}
        usage = {"input_tokens": 30, "output_tokens": 1}
        status = 500 if "fail" in json.dumps(body["input"]) else 200
        said = {"model": "luna", "answers": [answer], "usage": usage}
        return web.json_response(said, status=status)


@pytest.fixture
def server() -> Iterator[Decisions]:
    with Decisions() as running:
        yield running


@pytest.fixture
def decisions(server: Decisions) -> OpenAIDecisions:
    with warnings.catch_warnings(action="ignore"):  # that it is in beta
        return OpenAIDecisions(model="luna", base_url=server.openai_url, api_key="a-key")


@pytest.mark.parametrize("as_signal", [True, False])
@pytest.mark.parametrize(
    ("question", "outcome"), [(Q, "confidence"), ("refuse", "refused"), ("fail", "failed")]
)
async def test_openais_decisions_are_a_signal_and_a_verifier(
    upstream: Upstream,
    server: Decisions,
    decisions: Any,
    as_signal: bool,
    question: str,
    outcome: str,
) -> None:
    price = Price(input=1, output=2)
    options: dict[str, Any] = {"verifier": DecisionVerifier(decisions, price=price)}
    if as_signal:
        options = {"signals": [DecisionSignal(decisions, price=price)]}
    upstream.says("small", Answer("five", p=0.99))
    upstream.says("large", "460,000")
    small, large = upstream.tier("small"), upstream.tier("large")
    result = await Cascade(small, large, **options).ainvoke(question)
    assert result.tier == "large"
    entry, *more = [entry for entry in result.ledger if entry.model == "openai:luna"]
    assert entry.node == ("self_check" if as_signal else "verify")
    assert server.asked == 1 + len(more)  # those that the cascade repeats itself
    if outcome == "failed":
        assert (entry.outcome, entry.cost_usd) == ("failed", None)
        return
    assert (entry.input_tokens, float(entry.cost_usd or 0)) == (30, pytest.approx(32e-6))
    if outcome == "confidence":
        assert result.confidence == pytest.approx(0.2)


QUESTIONS: list[tuple[Any, str | None]] = [
    (Choice(instructions="Which?", criteria={"right": None, "wrong": "it is not"}), "right"),
    (Score(instructions="How good?", criteria=["bad", "so so", "good"]), None),
]


@pytest.mark.parametrize(("question", "correct"), QUESTIONS)
async def test_each_kind_of_question_gives_a_probability(
    upstream: Upstream, decisions: OpenAIDecisions, question: Any, correct: str | None
) -> None:
    upstream.says("small", Answer("five", p=0.99))
    signal = DecisionSignal(decisions, question, correct=correct)
    cascade = Cascade(upstream.tier("small"), upstream.tier("large"), signals=[signal])
    assert (await cascade.ainvoke(Q)).confidence == pytest.approx(0.2)
