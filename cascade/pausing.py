"""Runs that wait between the draft and the decision about it, also in a file and for days.

The draft is made and checked by the nodes of the graph, and no more; later the run goes on from
there, in this process or in another, and nothing of it is paid for twice. So whoever decides can
see many drafts first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Self

from langchain_core.messages import AnyMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END
from pydantic import TypeAdapter

from cascade._clock import steady_time
from cascade.errors import ConfigurationError
from cascade.ledger import LedgerView, collecting
from cascade.policies import Policy
from cascade.policies.given import GivenPolicy, given
from cascade.questions import Question, to_messages
from cascade.result import CascadeResult
from cascade.state import Assessment, CascadeInput, Decision, Draft, LedgerEntry, Run
from cascade.walking import Walk

__all__ = ["Paused", "Pausing"]

WAITING = ("verify", "expert")
"""The nodes before which a run waits: a draft is there, or none could be had."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A run that waits for a decision about its draft.

    Attributes:
        at: the node that comes next: `verify`, or `expert` where there is no draft to decide about.
        run: its place in the ledger.
        entries: what it cost so far.
        draft: without its log-probabilities, which are in the signals; None where there is none.
        assessment: what is known about the draft.
        decision: why there is no draft.
    """

    at: Literal["verify", "expert"]
    run: Run
    entries: tuple[LedgerEntry, ...]
    draft: Draft | None = None
    assessment: Assessment | None = None
    decision: Decision | None = None

    @property
    def ledger(self) -> LedgerView:
        """What it cost so far."""
        return LedgerView(self.entries)

    def dump(self) -> dict[str, Any]:
        """As JSON values, for `load`."""
        content: dict[str, Any] = _records().dump_python(self, mode="json", exclude_defaults=True)
        return content

    @classmethod
    def load(cls, content: Mapping[str, Any]) -> Paused:
        """What `dump` gave."""
        return _records().validate_python(content)

    def state(self, messages: Sequence[AnyMessage]) -> dict[str, Any]:
        """The state of the graph; what a decision takes is no time of the run."""
        *before, last = messages
        update = {} if self.decision is None else {"decision": self.decision}
        return {
            "messages": [*before, last.model_copy(update={"id": self.run.question_id})],
            "run": replace(self.run, begun_at=steady_time()),
            "draft": self.draft,
            "assessment": self.assessment,
            "degraded": False,
            "ledger": list(self.entries),
            **update,
        }


@cache
def _records() -> TypeAdapter[Paused]:
    return TypeAdapter(Paused)


class Pausing(ABC):
    """A cascade whose runs can wait for a decision from outside."""

    _walk: Walk

    async def adraft(
        self,
        question: Question,
        config: RunnableConfig | None = None,
        *,
        before: Collection[str] = WAITING,
    ) -> Paused | CascadeResult:
        """Draft an answer and check it with the free signals, or all, and decide nothing.

        LangChain's callbacks do not see it; observers and the ledger do.

        Args:
            question: what to ask.
            config: of the run.
            before: the nodes that are not entered. With `expert` alone the policy decides, and what
                it escalates to the last tier waits, for `aresume`.

        Returns:
            The waiting run, for `adecide`; or a result, where a cache knew the answer.

        Raises:
            InputError: the question is empty or cannot be read.
            ModelError: no draft could be had, and no larger tier would help.
        """
        messages = to_messages(question)
        await self._ready()
        with collecting() as entries, self._failing(entries):
            begun = CascadeInput(messages=messages)
            state, at = await self._walk.until(begun, config, before=before)
            return self._result(state, entries) if at == END else _paused(state, at)

    async def adecide(
        self,
        question: Question,
        paused: Paused,
        decision: Decision,
        config: RunnableConfig | None = None,
    ) -> CascadeResult:
        """Go on with a run that waits, by a decision from outside instead of the policy's.

        Args:
            question: the same as then.
            paused: of `adraft`.
            decision: `accept` or `escalate`, and why.
            config: of the run.

        Raises:
            ConfigurationError: a draft is to be accepted that is not there, or another tool
                stands in the way of the decision, such as an alarm of the watch for drift.
            ModelError: no tier could answer; `error.ledger` holds what was spent.
        """
        accepts = decision.action == "accept"
        if accepts and paused.draft is None:
            raise ConfigurationError("there is no draft to accept: escalate.")
        await self._ready()
        decides = self.with_policy(policy=GivenPolicy())
        before = WAITING if accepts else ()
        with collecting() as entries, self._failing(entries), given(decision):
            state, at = await decides._walk.until(  # noqa: SLF001 - its own kind
                paused.state(to_messages(question)), config, start=paused.at, before=before
            )
            if at != END:
                raise ConfigurationError(f"not accepted: {state['decision'].reason}")
            return self._result(state, entries)

    async def aresume(
        self, question: Question, paused: Paused, config: RunnableConfig | None = None
    ) -> CascadeResult:
        """Go on with a run that waits, to its end, as the cascade's own policy decides.

        A policy that learns costs, such as a dollar budget, hears nothing of a run that waited for
        the last tier: it is to know before the next decision, from whoever let the run wait.

        Args:
            question: the same as then.
            paused: of `adraft`.
            config: of the run.

        Raises:
            ModelError: no tier could answer; `error.ledger` holds what was spent since.
        """
        await self._ready()
        learns = paused.at != "expert"
        with collecting() as entries, self._failing(entries, learns=learns):
            state = paused.state(to_messages(question))
            state, _ = await self._walk.until(state, config, start=paused.at)
            return self._result(state, entries, learns=learns)

    @abstractmethod
    def with_policy(self, *, policy: Policy | None = None) -> Self:
        """This cascade with another policy."""

    @abstractmethod
    async def _ready(self) -> None: ...

    @abstractmethod
    def _failing(
        self, entries: list[LedgerEntry], *, learns: bool = True
    ) -> AbstractContextManager[None]: ...

    @abstractmethod
    def _result(
        self, state: Any, entries: list[LedgerEntry], *, learns: bool = True
    ) -> CascadeResult: ...


def _paused(state: Mapping[str, Any], at: str) -> Paused:
    draft: Draft | None = state.get("draft")
    if draft is not None:
        plain = replace(draft.completion, logprobs=None, call_logprobs=None)
        draft = replace(draft, completion=plain)
    return Paused(
        at="expert" if at == "expert" else "verify",
        run=state["run"],
        entries=tuple(state["ledger"]),
        draft=draft,
        assessment=state.get("assessment"),
        decision=state.get("decision") if at == "expert" else None,
    )
