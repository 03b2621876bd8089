"""Shadow start: the large model answers, and the small one shows beside it what it would have done.

After the reply the very same agents run once more, with the reply in the place of the large model:
what they decide is what they would have decided. Their entries go into the ledger as node `shadow`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any, Literal, get_args

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph, StateGraph

from cascade.agents import Caller, Judge, Task
from cascade.agents.border import LOCAL_ONLY
from cascade.agents.comparing import Answers, Compare, Comparison
from cascade.agents.entries import free_entry
from cascade.agents.gate import Answered
from cascade.agents.shedding import Pressure, shed_entry
from cascade.errors import CascadeError, ConfigurationError, ModelError
from cascade.ledger import Recorder
from cascade.ledger.draws import lot
from cascade.ledger.store.base import new_id
from cascade.ledger.tags import current_tags, tagged
from cascade.ledger.texts import Texts
from cascade.models import Model, Request
from cascade.models.withheld import WithheldModel
from cascade.observing import Aside
from cascade.oversight.comparisons import comparison
from cascade.oversight.overseeing import Oversight
from cascade.policies import Policy, tell_cost
from cascade.state import CascadeInput, Completion, LedgerEntry, Run
from cascade.tiers import OpenTier

NODE = "shadow"
AUDIT = "audit"
"""The node of a judge's calls: a live run has none, so that they are no cost of drafting."""

Mode = Literal["live", "shadow", "canary"]
"""Who answers first: the small model; the large one; or the small one for a share of requests."""

MODES: tuple[Mode, ...] = get_args(Mode)

Build = Callable[..., StateGraph[Any, Any, Any, Any]]
"""`build_graph` with everything given; what is named in the call is replaced."""

logger = logging.getLogger("cascade")


@dataclass(slots=True)
class Trial:
    """A shadow run on its way.

    Attributes:
        answered: what the large model said, and in which run.
        calls: how many calls were made for it, or would have been, had their tier not been shut.
        spent: what they cost so far, as far as it is known.
    """

    answered: Answered
    calls: int = 0
    spent: Decimal = Decimal(0)


_trial: ContextVar[Trial] = ContextVar("trial")


class _Reply(Model):
    """The large model with the answer that it has given already."""

    real = False

    def __init__(self, model: Model) -> None:
        self.provider, self.model, self.local = model.provider, model.model, model.local
        self.returns_logprobs = model.returns_logprobs

    async def _complete(self, request: Request) -> Completion:
        del request
        return _trial.get().answered.completion


class _Book(Recorder):
    """Books what the agents do in a shadow run on the run that it belongs to, as node `shadow`.

    The large model's answer was paid for in the run itself and is not booked again; nor is a node
    that asked no model and cost nothing.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(observers=Aside(recorder.observers, unseen="expert"))
        self._recorder = recorder

    async def begin(self, run_id: str, node: str, tier: str, model: str) -> str | None:
        if node == "expert":
            return None
        run_id = _trial.get().answered.run.id
        return await self._recorder.begin(run_id, NODE, tier, model)

    def withdraw(self, attempt_id: str | None) -> None:
        self._recorder.withdraw(attempt_id)

    def record(self, entry: LedgerEntry, texts: Texts | None = None) -> LedgerEntry:
        free = entry.model is None and entry.cost_usd == 0 and entry.outcome != "not_sent"
        if entry.node == "expert" or free:
            return entry
        trial = _trial.get()
        trial.calls += entry.model is not None or entry.outcome == "not_sent"
        trial.spent += (entry.assumed_usd if entry.cost_usd is None else entry.cost_usd) or 0
        return self._recorder.record(_beside(entry, trial.answered.run), texts)


def _beside(entry: LedgerEntry, run: Run) -> LedgerEntry:
    """The entry in a shadow run: its cost counts against the saving, and no baseline is earned."""
    return entry.model_copy(
        update={
            "run_id": run.id,
            "node": NODE,
            "note": f"{entry.node}: {entry.note}" if entry.note else entry.node,
            "saved_usd": None if entry.cost_usd is None else -entry.cost_usd,
            "baseline_usd": Decimal(0),
            "baseline_low_usd": None,
            "baseline_high_usd": None,
            "basis": entry.cost_basis,
            "action": None,
            "confidence": None,
            "calibrated": False,
            "signals": None,
            "audit_rate": None,
        }
    )


class Start:
    """Who answers first in a cascade; it may be changed while the cascade runs.

    Args:
        name: of the cascade.
        tiers: from small to large.
        recorder: where changes are written down.
        mode: `live`, `shadow` or `canary`.
        canary_share: of requests, or of threads, that are live in the mode `canary`.
        tags: of the ledger entries.
        judge: the user's verifier, where there is one: it decides, not a threshold.

    Raises:
        ConfigurationError: there is no such mode, the share is none, or nothing can be drafted.
    """

    def __init__(
        self,
        name: str,
        tiers: Sequence[OpenTier],
        recorder: Recorder,
        mode: Mode = "live",
        canary_share: float = 0.1,
        tags: Mapping[str, str] | None = None,
        judge: Judge | None = None,
    ) -> None:
        self._name = name
        self._tiers = tiers
        self._recorder = recorder
        self.tags = tags or {}
        self.judged = judge is not None
        self._check(mode)
        self._mode: Mode = mode
        self._share = _share(canary_share)

    @property
    def mode(self) -> Mode:
        """Who answers first."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._check(mode)
        before, self._mode = self._mode, mode
        if mode != before:
            live = f", {self._share:.1%} of requests are live" if mode == "canary" else ""
            self._tell(f"{before} → {mode}{live}")

    @property
    def canary_share(self) -> float:
        """The share that is live in the mode `canary`."""
        return self._share

    @canary_share.setter
    def canary_share(self, share: float) -> None:
        before, self._share = self._share, _share(share)
        if share != before and self._mode == "canary":
            self._tell(f"canary: {before:.1%} → {share:.1%} of requests are live")

    def takes(self, key: str) -> bool:
        """Whether the large model answers first: always the same for one key, mode and share.

        A larger share has in it all that a smaller one has.
        """
        if self._mode == "live":
            return False
        return self._mode == "shadow" or lot(key, purpose="canary") >= self._share

    def _check(self, mode: Mode) -> None:
        if mode not in MODES:
            known = ", ".join(map(repr, MODES))
            raise ConfigurationError(f"mode={mode!r}: give one of {known}.")
        if mode != "live" and len(self._tiers) < 2:
            raise ConfigurationError(
                f"mode={mode!r} needs a small model that drafts; there is only "
                f"{self._tiers[0].model.name}."
            )
        if mode != "live" and isinstance(self._tiers[-1].model, WithheldModel):
            raise ConfigurationError(
                f"mode={mode!r} lets {self._tiers[-1].model.name} answer, which is not on this "
                "machine; with local_only nothing may leave it."
            )
        if mode != "live" and self._recorder.store is None:
            logger.warning("mode=%r without ledger=…: what the drafts show is kept nowhere", mode)

    def _tell(self, note: str) -> None:
        """An event in the ledger."""
        run = Run(id=f"mode-{new_id()}", question_id="")
        with tagged(**{**self.tags, **current_tags()}):
            _record(self._recorder, free_entry(run, "mode", None, note))
        logger.info("%s: %s", self._name, note)


@dataclass(slots=True)
class Shadow:
    """Drafts after the reply what the large model has answered first.

    Attributes:
        start: says which questions the large model answers first.
        oversight: the policy that decides, where entries go, and who does the work.
        build: makes the graph of the same agents.
        learner: the policy that learns what requests cost, where it does.
        task: of the questions.
        pressure: under which no drafts are made.
    """

    start: Start
    oversight: Oversight
    build: Build
    learner: Policy
    task: Task
    pressure: Pressure | None = None
    _graph: CompiledStateGraph[Any, Any, Any, Any] | None = None

    def takes(self, key: str) -> bool:
        """Whether the large model answers first; see `Start.takes`."""
        return self.start.takes(key)

    def answered(self, answered: Answered) -> None:
        """Draft after the reply."""
        pressure = None if self.pressure is None else self.pressure.sheds("shadow")
        if pressure is not None:
            tier = self.oversight.outlook.tiers[0].name
            what = "no draft is made beside the answer"
            _record(self._recorder, shed_entry(answered.run, "shadow", tier, pressure, what))
            return
        tags = current_tags()
        if not self.oversight.background.start(partial(self._work, answered, tags)):
            tier = self.oversight.outlook.tiers[0].name
            entry = free_entry(answered.run, NODE, tier, "not drafted: too many are waiting")
            _record(self._recorder, entry.model_copy(update={"outcome": "cancelled"}))

    @property
    def compare(self) -> Compare:
        """Says how much better the large model's answer is, as in an audit."""
        if self.oversight.auditor is not None:
            return self.oversight.auditor.compare
        return comparison("auto", None, has_schema=self.task.schema is not None)

    @property
    def _recorder(self) -> Recorder:
        return self.oversight.recorder

    async def _work(self, answered: Answered, tags: Mapping[str, str]) -> None:
        run_id = answered.run.id
        _trial.set(Trial(answered))
        with tagged(**tags), self._recorder.observers.work_after(NODE, run_id):
            try:
                await self._draft(_trial.get())
            except CascadeError as error:
                logger.warning("a shadow draft failed: %s", error)
            finally:
                self._recorder.take(run_id)  # no state takes them

    async def _draft(self, trial: Trial) -> None:
        question = CascadeInput(messages=list(trial.answered.messages))  # type: ignore[arg-type]
        config = RunnableConfig(configurable={LOCAL_ONLY: trial.answered.run.local_only})
        state = await self._compiled().ainvoke(question, config)
        draft = state["draft"]
        if draft is None and trial.calls:
            return  # no tier could draft; why is in the entries of its calls
        spent = trial.spent
        found = Comparison(None, "the router sent it straight to the large model")
        if draft is not None:
            found = await self._compared(trial, draft.completion)
        self._recorder.record(_result(trial.answered, state, found))
        escalated = state["decision"].action == "escalate"
        tell_cost(self.learner, spent + (trial.answered.large_usd or 0 if escalated else 0))

    async def _compared(self, trial: Trial, draft: Completion) -> Comparison:
        answered = trial.answered
        caller = Caller(self._recorder, doors=self.oversight.doors)

        async def ask(tier: OpenTier, request: Request) -> Completion:
            return await caller.ask(tier, request, AUDIT, answered.run)

        answers = Answers(answered.run.id, answered.messages, draft, answered.completion)
        try:
            return await self.compare(answers, ask)
        except ModelError as error:
            return Comparison(None, f"no judge could be had: {error}")

    def _compiled(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """The same agents once more. Only the background loop comes here, so none is made twice."""
        if self._graph is None:
            *below, last = self.oversight.outlook.tiers
            tiers = (*below, replace(last, model=_Reply(last.model)))
            # Whether a question may leave was decided by its run; nobody is asked about a trial.
            task = replace(self.task, risks=replace(self.task.risks, irreversible="escalate"))
            graph = self.build(
                tiers=tiers, recorder=_Book(self._recorder), watchers=(), private=None, task=task
            )
            self._graph = graph.compile(name="shadow")
        return self._graph


def _record(recorder: Recorder, entry: LedgerEntry) -> None:
    """Record what no run takes into its state."""
    recorder.record(entry)
    recorder.take(entry.run_id)


def _share(share: float) -> float:
    if not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
        raise ConfigurationError(f"canary_share={share!r}: a share of requests is between 0 and 1.")
    return share


def _result(answered: Answered, state: Mapping[str, Any], found: Comparison) -> LedgerEntry:
    """The last entry of a shadow run: what would have been decided, and how the draft compares.

    Signals of a draft that is ruled out whatever they are, such as an empty one, are left out:
    no threshold lets it through.
    """
    decision, draft, assessment = state["decision"], state["draft"], state["assessment"]
    tier = None if draft is None else draft.tier
    ruled_out = assessment is not None and not (assessment.objection is None or assessment.withheld)
    note = "; ".join(filter(None, (decision.reason, found.note)))
    return free_entry(answered.run, NODE, tier, note).model_copy(
        update={
            "action": decision.action,
            "confidence": assessment.confidence if assessment else None,
            "calibrated": assessment.calibrated if assessment else False,
            "signals": assessment.signals or None if assessment and not ruled_out else None,
            "large_usd": answered.large_usd,
            "loss": found.loss,
        }
    )
