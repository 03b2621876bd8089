"""Every two options of a cascade together: either they work and the books add up, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from itertools import combinations
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolCall
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Command

from cascade import Cascade, CascadeResult, MemoryLedger, Price, Shedding, Tier
from cascade.confidence.calibrating import LabelledDraft, MadeFor, calibrate
from cascade.confidence.calibration import Calibration, ModelIdentity
from cascade.confidence.logprobs import logprob_features
from cascade.errors import ConfigurationError, ModelError, ModelUnavailableError
from cascade.events import Token
from cascade.graph import DEFAULT_RETRY
from cascade.ledger import LedgerView
from cascade.policies import Situation
from cascade.questions import to_task
from cascade.resilience import Breaker, Bulkhead, Resilience
from cascade.result import read_result
from cascade.setup import task_hash
from cascade.state import CHECKPOINT_TYPES, Certificate, Completion, Decision, LedgerEntry
from cascade.testing import ScriptedModel, reply
from cascade.tiers import open_tier

LARGE = "what the large model says"
OTHER = "what the other large model says"


def after_the_reply(entry: LedgerEntry) -> bool:
    """An audit, a draft beside the large model's answer, or that there is none under pressure."""
    return entry.node in ("audit", "shadow") or "shadow" in (entry.signals or ())


def tool(name: str) -> dict[str, Any]:
    path = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    return {"type": "function", "function": {"name": name, "parameters": path}}


TOOLS = [tool("look"), tool("erase")]
RISKS = {"look": "read", "erase": "irreversible"}


def spoken(word: str, dip: float) -> Completion:
    """A draft with a stretch of 16 words that it is less sure of."""
    text = " ".join(f"{word}{i}" for i in range(60))
    return reply(text, probability=[0.97] * 20 + [dip] * 16 + [0.97] * 24)


def calling(name: str) -> Completion:
    call = ToolCall(name=name, args={"path": "a.txt"}, id="1", type="tool_call")
    return reply("", tool_calls=[call], call_probability=0.999)


SURE, DOUBTFUL = spoken("sure", 0.9), spoken("dubious", 0.3)
DOWN = ModelUnavailableError("the small model is down", model="scripted:small")
LARGE_IS_DOWN = ModelUnavailableError("the large model is down", model="scripted:large")

DRAFTS: Mapping[str, tuple[Completion | Exception, Completion | Exception]] = {
    "accepted": (SURE, calling("look")),
    "escalated": (DOUBTFUL, calling("erase")),
    "failing": (DOWN, DOWN),
}
"""What the small model says, without tools and with them."""


class AskWhatIsDoubtful:
    """A policy that asks a person about every draft that it would not accept."""

    def decide(self, situation: Situation) -> Decision:
        seen = situation.assessment
        good = seen.objection is None and (seen.confidence or 0.0) >= 0.8
        action: Any = "accept" if good else "ask" if seen.objection is None else "escalate"
        return Decision(action=action, reason="by hand", confidence=seen.confidence)


def small_tier(answer: Completion | Exception, delay_s: float = 0.0) -> Tier:
    model = ScriptedModel([answer], name="small", returns_logprobs=True, delay_s=delay_s)
    return Tier(model, max_tokens=64, price=Price(input=1, output=2))


@cache
def calibration(*, with_tools: bool) -> Calibration:
    """Right drafts are sure all along, wrong ones have a bad stretch; with a certificate."""
    labelled = []
    for i in range(300):
        right = i % 3 > 0
        dip = 0.9 - i / 3000 if right else 0.2 + i / 3000
        features = logprob_features(spoken("word", dip).logprobs)
        labelled.append(LabelledDraft(features, float(right)))
    task = to_task(TOOLS if with_tools else [], None)
    made_for = MadeFor(
        ModelIdentity(name="scripted:small"),
        None,
        task_hash(task, open_tier(small_tier(SURE))),
        None,
        "references",
    )
    proved = Certificate(
        threshold=0.6, max_harm=0.1, delta=0.1, n=300, errors=1, coverage=0.6, bound=0.05
    )
    made = calibrate(labelled, (("logprobs", 0),), made_for)
    return made.model_copy(update={"certificates": (proved,)})


def always(messages: Any) -> bool:
    del messages
    return True


Change = Callable[[Cascade], Cascade]

OPTIONS: dict[str, dict[str, Any] | Change] = {
    "abort": {"abort": True},
    "audit_rate": {"audit_rate": 1.0},
    "cache": {"cache": "new"},
    "canary": {"mode": "canary", "canary_share": 0.5},
    "deadline": {"deadline": 30.0},
    "drift": {"drift": "tighten"},
    "fallback": {"fallback": "new"},
    "hedge": {"deadline": 30.0, "hedge": 29.98},
    "latch": {"latch": True},
    "local_only": {"local_only": True},
    "max_harm": {"max_harm": 0.1},
    "person": {"policy": AskWhatIsDoubtful()},
    "private": {"private": always},
    "resilience": {"resilience": Resilience(breaker=Breaker(in_a_row=50), bulkhead=Bulkhead(8))},
    "reuse": {"reuse": "correct"},
    "shadow": {"mode": "shadow"},
    "shedding": {"shedding": Shedding(load=lambda: 1.0)},
    "tool_risks": {"tools": TOOLS, "tool_risks": RISKS},
    "with_policy": lambda cascade: cascade.with_policy(price_of_error=0.005),
    "with_task": lambda cascade: cascade.with_task(replace(cascade.task, stop=("§",))),
}

REFUSED: dict[frozenset[str], str] = {
    frozenset(pair.split(" + ")): why
    for pair, why in {
        "abort + local_only": "with local_only none is stopped",
        "abort + tool_risks": "may call tools",
        "audit_rate + local_only": "with local_only nothing may leave",
        "canary + local_only": "with local_only nothing may leave",
        "deadline + max_harm": "Give one of them",
        "fallback + local_only": "there is no way to here",
        "hedge + local_only": "there is no way to here",
        "hedge + max_harm": "Give one of them",
        "latch + local_only": "only one tier that may answer",
        "local_only + max_harm": "Give local_only='abstain'",
        "local_only + reuse": "there is no way to here",
        "local_only + shadow": "with local_only nothing may leave",
        "max_harm + person": "Give one",
    }.items()
}

PAIRS = [
    pair
    for pair in combinations(sorted(OPTIONS), 2)
    if pair not in (("canary", "shadow"), ("deadline", "hedge"))  # the same option twice
]


@dataclass
class House:
    """A cascade of scripted models with two options, and all that was asked and booked."""

    pair: tuple[str, ...]
    draft: str = "accepted"
    down: bool = False
    store: MemoryLedger = field(default_factory=MemoryLedger)

    def __post_init__(self) -> None:
        options: dict[str, Any] = {}
        for name in self.pair:
            given = OPTIONS[name]
            options |= given if isinstance(given, dict) else {}
        with_tools = "tools" in options
        if "max_harm" in options:
            options["calibrator"] = calibration(with_tools=with_tools)
        if "cache" in options:
            options["cache"] = InMemoryCache()
        self.other = ScriptedModel(OTHER, name="other", local=False)
        if "fallback" in options:
            stand_in = Tier(self.other, name="other", price=Price(input=1, output=10))
            options["fallback"] = (stand_in, "draft")
        delay_s = 0.05 if "hedge" in options else 0.0
        small = small_tier(DRAFTS[self.draft][with_tools], delay_s)
        answer = LARGE_IS_DOWN if self.down else LARGE
        self.large = ScriptedModel(lambda _: answer, name="large", local=False, delay_s=delay_s)
        self.small: Any = small.model
        cascade = Cascade(
            small,
            Tier(self.large, price=Price(input=1, output=10)),
            ledger=self.store,
            retry_policy=DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False),
            **options,
        )
        for name in self.pair:
            change = OPTIONS[name]
            cascade = change(cascade) if not isinstance(change, dict) else cascade
        self.cascade = cascade

    @property
    def stays(self) -> bool:
        return bool({"local_only", "private"} & {*self.pair})

    async def ask(self) -> CascadeResult:
        """Through a graph with a checkpointer; a person who is asked says to escalate."""
        serde = JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)
        graph: Any = self.cascade.build_graph().compile(checkpointer=InMemorySaver(serde=serde))
        config: Any = {"configurable": {"thread_id": "t"}}
        state = await graph.ainvoke({"messages": [HumanMessage("What?")]}, config)
        if "__interrupt__" in state:
            state = await graph.ainvoke(Command(resume="escalate"), config)
        return read_result(state, "small", None)

    async def watch(self) -> tuple[str, CascadeResult]:
        """By a stream: what its reader was shown, and the result."""
        *events, result = [event async for event in self.cascade.astream("What?")]
        assert isinstance(result, CascadeResult)
        return "".join(e.text for e in events if isinstance(e, Token)), result

    def check_books(self, *results: CascadeResult) -> None:
        """Every call is booked once, and each run adds up."""
        asked = sum(len(each.requests) for each in (self.small, self.large, self.other))
        assert len([e for e in self.store.entries if e.model is not None]) == asked
        for result in results:
            booked = [e for e in self.store.entries if e.run_id == result.run_id]
            nodes = [e.node for e in booked if not after_the_reply(e)]
            assert nodes == [e.node for e in result.ledger]
            _check_sums(result)
        assert not len(self.cascade._hedging or ())

    def check_metadata(self, told: Mapping[str, Any]) -> None:
        """What the message of a chat model says it cost is what its run is booked with."""
        booked = [e for e in self.store.entries if e.run_id == told["run_id"]]
        ledger = LedgerView(e for e in booked if not after_the_reply(e))
        assert told["cost_usd"] == (None if ledger.cost_usd is None else float(ledger.cost_usd))


def _check_sums(result: CascadeResult) -> None:
    entries: list[LedgerEntry] = list(result.ledger)
    assert len([e for e in entries if e.baseline_usd]) <= 1
    ledger = result.ledger
    known = [e for e in entries if e.cost_usd is not None]
    assert ledger.known_cost_usd == sum((e.cost_usd or Decimal(0) for e in known), Decimal(0))
    if None not in (ledger.cost_usd, ledger.saved_usd, ledger.baseline_usd):
        assert ledger.cost_usd is not None
        assert ledger.baseline_usd is not None
        assert ledger.saved_usd == ledger.baseline_usd - ledger.cost_usd


EITHER = {
    # As sure as a calibration makes it that saw no calls.
    (frozenset({"max_harm", "tool_risks"}), "accepted"),
    (frozenset({"max_harm", "tool_risks"}), "escalated"),
    # Audits tell how short the large model is, and what it costs.
    (frozenset({"audit_rate", "with_policy"}), "accepted"),
}
"""Pairs, and drafts, of which either answer may come."""


def answers_of(house: House) -> set[str]:
    """What may be answered: the draft, the large model's words, or either of them."""
    draft, pair = DRAFTS[house.draft]["tool_risks" in house.pair], {*house.pair}
    text = draft.transcript if isinstance(draft, Completion) else ""
    if house.stays:
        # An irreversible call, and what no certificate covers, is no stopgap.
        kept = house.draft == "accepted" or not pair & {"tool_risks", "max_harm"}
        return {text if kept else ""}
    by_lot = "canary" in pair and "shadow" not in pair and house.draft == "accepted"
    if by_lot or (frozenset(pair), house.draft) in EITHER:
        return {LARGE, text}
    alone = house.draft != "accepted" or "shadow" in pair
    # A certificate is of one task.
    return {LARGE} if alone or pair == {"max_harm", "with_task"} else {text}


def spoken_in(message: AIMessage) -> str:
    """The words of an answer and the calls in it."""
    calls = tuple(ToolCall(**{**call, "type": "tool_call"}) for call in message.tool_calls)
    return Completion(text=str(message.text), model="", tool_calls=calls).transcript


def said(result: CascadeResult) -> str:
    return spoken_in(result.message)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
async def test_two_options_work_together_or_are_refused(pair: tuple[str, str], draft: str) -> None:
    why = REFUSED.get(frozenset(pair))
    if why is not None:
        with pytest.raises(ConfigurationError, match=why):
            House(pair, draft)
        return
    house = House(pair, draft)
    if draft == "failing" and house.stays:
        with pytest.raises(ModelError) as failed:
            await house.cascade.ainvoke("What?")
        entries = list(failed.value.ledger or ())
        assert [e.outcome for e in entries if e.model] == ["failed"] * len(house.small.requests)
        assert not house.large.requests
        return
    first = await house.ask()
    shown, second = ("", None) if "person" in pair else await house.watch()
    message = None if "person" in pair else await house.cascade.as_chat_model().ainvoke("What?")
    await house.cascade.audits_done()
    house.check_books(first, *(() if second is None else (second,)))
    assert said(first) in answers_of(house)
    if second is not None:
        assert said(second) in answers_of(house)
        assert shown == second.answer
    if message is not None:
        assert spoken_in(message) in answers_of(house)
        house.check_metadata(message.response_metadata)
    if house.stays:
        assert not house.large.requests
    await house.cascade.aclose()


@pytest.mark.parametrize("draft", ["escalated", "failing"])
@pytest.mark.parametrize("option", sorted(OPTIONS))
async def test_another_model_stands_in_for_the_large_one_whatever_the_options(
    option: str, draft: str
) -> None:
    pair = tuple(sorted({"fallback", option}))
    if frozenset(pair) in REFUSED:
        return  # as the table of pairs has it
    house = House(pair, draft, down=True)
    if house.stays:
        return  # it never comes to the large model
    first = await house.ask()
    shown, second = ("", None) if option == "person" else await house.watch()
    await house.cascade.audits_done()
    house.check_books(first, *(() if second is None else (second,)))
    for result in [each for each in (first, second) if each is not None]:
        assert (said(result), result.tier, result.degraded) == (OTHER, "other", True)
    assert second is None or shown == OTHER
    assert not [e for e in house.store.entries if e.saved_usd and e.saved_usd > 0 and e.model]
    await house.cascade.aclose()


def test_the_table_of_refusals_names_pairs_that_are_tried() -> None:
    assert set(REFUSED) <= {frozenset(pair) for pair in PAIRS}
