"""Laws of the kernel: whatever middleware does, money is booked once, readers are not misled."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade import CascadeError, CascadeMiddleware, MemoryLedger, Token
from cascade.errors import ModelTimeoutError, ModelUnavailableError, RateLimitError
from cascade.middleware import Slot
from cascade.models import Request
from cascade.run import Answer
from cascade.state import Completion
from cascade.testing import reply
from tests.kernel.drivers import DRIVERS, Graph, Loop, cascade_of, scripted

MANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Odd(CascadeMiddleware):
    """A middleware that does one odd thing, now and then."""

    def __init__(self, what: str, when: list[bool], slot: Slot, name: str) -> None:
        self.what, self.slot, self.name = what, slot, name
        self._when, self._turn = when, 0

    def _now(self, *whats: str) -> str:
        """What it does now, if it is one of these."""
        if self.what not in whats:
            return ""
        self._turn += 1
        return self.what if self._when[self._turn % len(self._when)] else ""

    async def before_run(self, run: Any, runtime: Any) -> Answer | None:
        match self._now("answers", "raises at first"):
            case "answers":
                return Answer(Completion("known", "m", tier="small"), None, "small")
            case "raises at first":
                raise ModelUnavailableError("odd", model="odd")
        return None

    async def wrap_model_call(self, call: Any, handler: Any) -> Any:
        match self._now("repeats", "retries", "raises before", "cancels", "raises after", "bug"):
            case "repeats":
                await handler(call)
            case "retries":
                with suppress(ModelUnavailableError):
                    return await handler(call)
            case "raises before":
                raise ModelUnavailableError("odd before", model="odd")
            case "cancels":
                try:
                    async with asyncio.timeout(0):
                        return await handler(call)
                except TimeoutError:
                    raise ModelTimeoutError("odd", model="odd", billed=None) from None
            case "raises after":
                await handler(call)
                raise ModelUnavailableError("odd after", model="odd")
            case "bug":
                await handler(call)
                raise ZeroDivisionError("a bug of the user's")
        return await handler(call)

    def wrap_decision(self, run: Any, situation: Any, handler: Any) -> Any:
        decision = handler(situation)
        doubts = not situation.last and self._now("doubts")
        return decision.model_copy(update={"action": "escalate"}) if doubts else decision

    async def after_run(self, run: Any, answer: Any, runtime: Any) -> None:
        if self._now("raises last"):
            raise ValueError("odd at the end")


ODD = ["answers", "raises at first", "repeats", "retries", "raises before", "cancels"]
ODD += ["raises after", "bug", "doubts", "raises last"]
FAILS = [None, ModelUnavailableError("503", model="x"), RateLimitError("429", model="x")]
FAILS += [ModelTimeoutError("late", model="x", billed=None)]
SURE = st.sampled_from([0.2, 0.95])
SHOWS = st.sampled_from(["verified", "optimistic"])


def _raises(question: str, answer: str) -> float:
    raise KeyError("oh")


SETUPS = st.sampled_from(
    [
        {},
        {"router": lambda _: "large"},
        {"verifier": lambda _q, _a: False},
        {"verifier": _raises},
        {"signals": [lambda _q, _a: 0.9]},
        {"response_format": {"type": "object"}},  # which no answer is
    ]
)

turns = st.lists(st.booleans(), min_size=1, max_size=4)
odd = st.tuples(st.sampled_from(ODD), turns, st.sampled_from(list(Slot)))
stacks = st.lists(odd, max_size=4)
failures = st.lists(st.sampled_from(FAILS), max_size=4)


def _stack(drawn: Any, order: Any = None) -> list[Odd]:
    made = [Odd(what, when, slot, f"odd{i}") for i, (what, when, slot) in enumerate(drawn)]
    return made if order is None else [made[i] for i in order]


def _counting(
    answer: str, sure: float | None, fails: list[Any], name: str, seen: Counter[str]
) -> Any:
    left = list(fails)

    def answers(request: Request) -> Any:
        del request
        seen[name] += 1
        failure = left.pop(0) if left else None
        return failure or reply(answer, probability=sure)

    # It waits a moment after it has seen a request: what cancels at once, cancels it there.
    return scripted(answers, name=name, returns_logprobs=True, delay_s=1e-6)


def _run(
    driver: Any,
    drawn: Any,
    small: Any,
    large: Any,
    sure: float,
    *,
    order: Any = None,
    local: bool = True,
    made: Any = None,
    **asked: Any,
) -> Any:
    """(requests that the models saw, ledger, outcome, error): one of the last two is None."""
    seen, store = Counter[str](), MemoryLedger()
    dear = _counting("Canberra it is", None, large, "l", seen)
    dear.local = local
    cheap = _counting("Sydney perhaps", sure, small, "s", seen)
    cascade = cascade_of(cheap, dear, _stack(drawn, order), ledger=store, **(made or {}))
    try:
        return seen, store, asyncio.run(driver(cascade).ask(**asked)), None
    except CascadeError as error:
        return seen, store, None, error


@given(st.sampled_from(DRIVERS), stacks, failures, failures, SURE, SHOWS, SETUPS)
@MANY
def test_each_attempt_that_a_server_saw_has_one_entry_and_a_stream_shows_the_answer_alone(
    driver: Any, drawn: Any, small: Any, large: Any, sure: float, show: str, made: Any
) -> None:
    seen, store, outcome, error = _run(driver, drawn, small, large, sure, show=show, made=made)
    ended = [e for e in store.entries if e.outcome != "begun"]
    assert Counter(e.model.removeprefix("scripted:") for e in ended if e.model) == seen
    view = error.ledger if outcome is None else outcome.result.ledger
    assert sorted(e.id for e in view) == sorted(e.id for e in ended)
    assert len({e.id for e in ended}) == len(ended)
    saved = [e.saved_usd for e in view]
    assert view.saved_usd == (None if None in saved else sum(saved, Decimal(0)))
    if outcome is not None:
        assert outcome.shown == outcome.result.answer, outcome.events


@given(stacks, failures, failures, SURE, SETUPS)
@MANY
def test_loop_and_langgraph_come_to_the_same(
    drawn: Any, small: Any, large: Any, sure: float, made: Any
) -> None:
    looped, driven = (_run(d, drawn, small, large, sure, made=made) for d in (Loop, Graph))
    assert looped[0] == driven[0]
    assert type(looped[3]) is type(driven[3]), (looped[3], driven[3])
    if looped[2] is not None:
        one, other = looped[2], driven[2]
        assert one.nodes == other.nodes
        for name in ("answer", "tier", "decision", "degraded", "escalated", "cached"):
            assert getattr(one.result, name) == getattr(other.result, name)
        told = [[e for e in o.events if isinstance(e, Token)] for o in (one, other)]
        assert told[0] == told[1]


@given(stacks, st.randoms(use_true_random=False), SURE)
@MANY
def test_any_shuffle_of_a_stack_behaves_alike(drawn: Any, random: Any, sure: float) -> None:
    order = list(range(len(drawn)))
    random.shuffle(order)
    first, again = (_run(Loop, drawn, [], [], sure, order=o) for o in (None, order))
    assert (first[0], type(first[3])) == (again[0], type(again[3]))
    if first[2] is not None:
        assert first[2].nodes == again[2].nodes


@given(stacks, failures, SURE, st.sampled_from(DRIVERS))
@MANY
def test_nothing_leaves_while_local_only_whatever_the_stack(
    drawn: Any, small: Any, sure: float, driver: Any
) -> None:
    seen, *_ = _run(driver, drawn, small, [], sure, local=False, local_only=True)
    assert seen["l"] == 0
