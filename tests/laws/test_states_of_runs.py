"""Runs in any order, with whatever fails in between: the ledger's laws hold all the time."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade import Cascade, Price, Tier
from cascade.errors import CascadeError, LedgerError, ModelUnavailableError
from cascade.graph import DEFAULT_RETRY
from cascade.ledger.runs import runs_of
from cascade.ledger.store import MemoryBackend, Store, UnavailableError
from cascade.ledger.store.base import Batch
from cascade.ledger.store.writer import Limits
from cascade.models import Request
from cascade.policies import Situation
from cascade.result import CascadeResult, read_result
from cascade.state import Completion, Decision
from cascade.testing import ScriptedModel, reply

CONFIDENCES = {"sure": 0.95, "doubtful": 0.3, "odd": 0.6}
KINDS = st.sampled_from(sorted(CONFIDENCES))
TIERS = st.sampled_from(["small", "large"])
ONCE = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False)


class ByConfidence:
    """Accepts what is sure, asks a person about what is odd, and escalates the rest."""

    def decide(self, situation: Situation) -> Decision:
        confidence = situation.assessment.confidence or 0.0
        action: Any = "accept" if confidence > 0.8 else "ask" if confidence > 0.5 else "escalate"
        return Decision(action=action, reason="by its confidence", confidence=confidence)


class Moody(ScriptedModel):
    """May be down, and may stand still until its caller has gone."""

    def __init__(self, name: str) -> None:
        super().__init__(self.answer, name=name, returns_logprobs=True)
        self.down = False
        self.reached: asyncio.Event | None = None

    def answer(self, request: Request) -> Completion:
        if self.down:
            raise ModelUnavailableError("down", model=self.name)
        kind = request.messages[-1].text.split()[0]
        return reply(f"{self.model} says {kind}", probability=CONFIDENCES[kind])

    async def _complete(self, request: Request) -> Completion:
        completion = await super()._complete(request)
        if self.reached is not None:
            self.reached.set()
            await asyncio.sleep(3600)
        return completion


class Database(MemoryBackend):
    """May be away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    async def write(self, batch: Batch) -> None:
        if self.away:
            raise UnavailableError("away")
        await super().write(batch)


class Runs(RuleBasedStateMachine):
    """One cascade with a checkpointer and a crash-safe ledger, and all that may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.models = {name: Moody(name) for name in ("small", "large")}
        self.database = Database()
        self.store = Store(self.database, limits=Limits(patience_s=0.0, linger_s=0.0))
        self.saver = InMemorySaver()
        self.numbers = itertools.count()
        self.waiting: list[str] = []
        self.answered: dict[str, CascadeResult] = {}

    @initialize()
    def start(self) -> None:
        """Also what a restart is: a new cascade on the same ledger and checkpoints."""
        prices = {"small": Price(input=1, output=2), "large": Price(input=100, output=300)}
        tiers = [Tier(model, name=name, price=prices[name]) for name, model in self.models.items()]
        self.cascade = Cascade(
            tiers=tiers,
            policy=ByConfidence(),
            ledger=self.store,
            retry_policy=ONCE,
            resilience=None,
        )
        self.graph: Any = self.cascade.build_graph().compile(checkpointer=self.saver)

    def do(self, work: Awaitable[Any]) -> Any:
        async def within() -> Any:
            async with asyncio.timeout(60):
                return await work

        return self.loop.run_until_complete(within())

    def config(self, thread: str) -> Any:
        return {"configurable": {"thread_id": thread}}

    def finished(self, thread: str, state: Any) -> None:
        if "__interrupt__" in state:
            self.waiting.append(thread)
            return
        result = read_result(state, "small", None)
        assert result.run_id not in self.answered
        self.answered[result.run_id] = result

    def go(self, thread: str, given: Any) -> None:
        """Run until it answers, waits, or fails with an error of the documented tree."""
        try:
            state = self.do(self.graph.ainvoke(given, self.config(thread)))
        except CascadeError as error:
            self.explained(error)
        else:
            self.finished(thread, state)

    def explained(self, error: CascadeError) -> None:
        if isinstance(error, LedgerError):
            assert self.database.away, error
        else:
            assert any(model.down for model in self.models.values()), error

    # What may happen -----------------------------------------------------------------------

    @rule(kind=KINDS)
    def ask(self, kind: str) -> None:
        number = next(self.numbers)
        self.go(f"t{number}", {"messages": [HumanMessage(f"{kind} {number}")]})

    @rule(kind=KINDS)
    def ask_without_a_checkpointer(self, kind: str) -> None:
        try:
            result = self.do(self.cascade.ainvoke(f"{kind} {next(self.numbers)}"))
        except CascadeError as error:
            if kind != "odd":  # nobody could be asked
                self.explained(error)
        else:
            self.answered[result.run_id] = result

    @rule(kind=KINDS, tier=TIERS)
    def ask_and_go_away(self, kind: str, tier: str) -> None:
        number, model = next(self.numbers), self.models[tier]

        async def leave() -> Any:
            model.reached = asyncio.Event()
            given = {"messages": [HumanMessage(f"{kind} {number}")]}
            run = asyncio.create_task(self.graph.ainvoke(given, self.config(f"t{number}")))
            reached = asyncio.create_task(model.reached.wait())
            await asyncio.wait([run, reached], return_when=asyncio.FIRST_COMPLETED)
            model.reached = None
            for task in (reached, run):
                task.cancel()
            (state,) = await asyncio.gather(run, return_exceptions=True)
            return state

        state = self.do(leave())
        if isinstance(state, dict):
            self.finished(f"t{number}", state)
        elif isinstance(state, CascadeError):
            self.explained(state)
        else:
            assert isinstance(state, asyncio.CancelledError), state

    @precondition(lambda self: self.waiting)
    @rule(said=st.sampled_from(["accept", "escalate"]), data=st.data())
    def a_person_says(self, said: str, data: st.DataObject) -> None:
        thread = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(thread)
        self.go(thread, Command(resume=said))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_restart_leaves_those_who_wait(self, data: st.DataObject) -> None:
        self.start()
        self.a_person_says("accept", data)

    @rule(tier=TIERS)
    def fail_or_recover(self, tier: str) -> None:
        self.models[tier].down = not self.models[tier].down

    @rule()
    def the_database_goes_or_comes(self) -> None:
        self.database.away = not self.database.away

    # What holds all the time ---------------------------------------------------------------

    @invariant()
    def sums_hold_and_each_run_has_one_outcome(self) -> None:
        for result in self.answered.values():
            view = result.ledger
            assert {entry.run_id for entry in view} == {result.run_id}
            saved = [entry.saved_usd for entry in view]
            nodes = [node.saved_usd for node in view.by_node().values()]
            if None not in saved:
                assert view.saved_usd == sum(filter(None, saved), Decimal(0))
                assert view.saved_usd == sum(filter(None, nodes), Decimal(0))
            run = runs_of((entry, {}) for entry in view)[result.run_id]
            assert run.outcome in ("accepted", "escalated", "degraded")
            assert (run.outcome == "escalated") == (result.escalated and not result.degraded)
            assert result.message.text == result.answer != ""

    @precondition(lambda self: not self.database.away)
    @invariant()
    def each_call_is_one_entry_and_none_is_open(self) -> None:
        kept = self.do(self.store.query())
        calls = Counter(entry.model for entry in kept if entry.model is not None)
        assert calls == Counter(
            {model.name: len(model.requests) for model in self.models.values() if model.requests}
        )
        assert self.do(self.store.unfinished()) == []
        of_runs = Counter(entry.run_id for entry in kept)
        for result in self.answered.values():
            assert of_runs[result.run_id] == len(result.ledger.entries)

    def teardown(self) -> None:
        self.database.away = False
        self.each_call_is_one_entry_and_none_is_open()
        assert self.store.lost == 0
        self.do(self.cascade.aclose())
        self.do(self.store.aclose())
        self.loop.close()


TestRuns = Runs.TestCase
TestRuns.settings = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
