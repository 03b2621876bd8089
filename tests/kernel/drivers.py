"""The two drivers of a run, told apart by nothing but their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade import Cascade, CascadeResult, Price, Run, Tier
from cascade.errors import PersonNeededError
from cascade.middleware import Retries
from cascade.testing import ScriptedModel, reply
from tests.acceptance.setups import shown

QUESTION = "What is the capital of Australia?"
PRICE = {"small": Price(input=1, output=2), "large": Price(input=100, output=400)}


def scripted(
    answer: Any = "Sydney perhaps", *, sure: float | None = 0.95, name: str = "s", **more: Any
) -> ScriptedModel:
    """A model with one answer."""
    answers = [reply(answer, probability=sure)] if isinstance(answer, str) else answer
    return ScriptedModel(answers, name=name, **more)


def cascade_of(
    small: ScriptedModel | None = None,
    large: ScriptedModel | None = None,
    middleware: Sequence[Any] = (),
    **options: Any,
) -> Cascade:
    """A cascade of scripted models whose retries do not wait."""
    if not any(isinstance(one, Retries) for one in middleware):
        middleware = (*middleware, Retries(base_s=0))
    return Cascade(
        Tier(small or scripted(), price=PRICE["small"]),
        Tier(large or scripted("Canberra it is", sure=None, name="l"), price=PRICE["large"]),
        middleware=middleware,
        **options,
    )


@dataclass
class Outcome:
    """What a caller and the reader of a stream got; `run` where it is kept."""

    result: CascadeResult | None
    events: list[Any]
    run: Run | None = None

    @property
    def shown(self) -> str:
        return shown(self.events)

    @property
    def nodes(self) -> list[str]:
        assert self.result is not None
        return [entry.node for entry in self.result.ledger]


class Loop:
    """Runs without LangGraph; one that waits for a person is kept as JSON."""

    name = "loop"

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade

    async def ask(self, *, show: Any = "verified", **settings: Any) -> Outcome:
        events: list[Any] = []
        try:
            async for event in self.cascade.astream(QUESTION, show=show, **settings):
                events += [event]
        except PersonNeededError as error:
            self._waiting = error.run
            return Outcome(None, events, error.run)
        return Outcome(events.pop(), events)

    async def resume(self, said: object) -> Outcome:
        kept = json.loads(json.dumps(self._waiting.to_json()))
        run = Run.from_json(kept, self._waiting.messages)
        return Outcome(await self.cascade.aresume(run, said), [])


class Graph(Loop):
    """Runs as a LangGraph graph with a checkpointer in memory."""

    name = "langgraph"

    async def ask(self, *, show: Any = "verified", **settings: Any) -> Outcome:
        self.graph = self.cascade.build_graph().compile(checkpointer=InMemorySaver())
        given = {"messages": [("human", QUESTION)], "settings": settings or None}
        return await self._drive(given, show)

    async def resume(self, said: object) -> Outcome:
        return await self._drive(Command(resume=said), "verified")

    async def _drive(self, given: Any, show: Any) -> Outcome:
        config: Any = {"configurable": {"thread_id": "1", "show": show}}
        steps = self.graph.astream(given, config, stream_mode=["custom", "values"])
        made = [step async for step in steps]
        state: Any = [value for mode, value in made if mode == "values"][-1]
        run = Run.from_json(state["run"], state["messages"])
        result = None if run.step == "person" else self.cascade.read(state)
        return Outcome(result, [value for mode, value in made if mode == "custom"], run)


DRIVERS: tuple[type[Loop], ...] = (Loop, Graph)
