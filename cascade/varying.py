"""The parts of `Cascade` that put it together, once for each task and policy that is asked for."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, Self

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph

from cascade._variants import Variants
from cascade.agents import Task
from cascade.agents.deadline import Deadline
from cascade.agents.fallback import Fallback
from cascade.agents.hedging import Hedging
from cascade.agents.latch import read_latch
from cascade.agents.shedding import Pressure, of_bulkheads, to_shedding
from cascade.caching import to_recall
from cascade.confidence.signals import Signal
from cascade.graph import build_graph
from cascade.kinds import check_kinds
from cascade.ledger import Recorder
from cascade.observing import Observer, Observers
from cascade.oversight import DriftWatch, Oversight, Watched, oversee
from cascade.oversight.alarms import to_drift
from cascade.oversight.local import check_local_only
from cascade.oversight.shadow import Build, Shadow, Start
from cascade.policies import Policy, UncalibratedPolicy
from cascade.policies.reuse import Reuse, Wanted
from cascade.questions import ResponseFormat
from cascade.resilience import Doors, TierState
from cascade.setup import calibration_for, choose_abort, choose_policy
from cascade.state import CascadeInput, CascadeState
from cascade.tiers import OpenTier, door_to
from cascade.walking import Walk, needs_loop

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration

POLICY_OPTIONS = ("policy", "price_of_error", "max_harm", "escalation_budget")
"""Options of `Cascade` of which one decides about drafts; `deadline` goes with most of them."""

logger = logging.getLogger("cascade")


class _Given:
    """A policy of the user's as a part of a key: equal records are one, other objects are not."""

    def __init__(self, policy: Policy | None) -> None:
        self.policy = policy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Given) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        if self.policy is None or is_dataclass(self.policy):
            return repr(self.policy)
        return f"{type(self.policy).__qualname__} at {id(self.policy)}"


@dataclass(frozen=True, slots=True)
class Variation:
    """In what the variants of one cascade differ."""

    task: Task = field(default_factory=Task)
    policy: _Given = field(default_factory=lambda: _Given(None))
    price_of_error: float | None = None
    max_harm: float | None = None
    escalation_budget: float | None = None
    deadline: float | None = None

    @classmethod
    def of(cls, task: Task, options: Mapping[str, Any]) -> Variation:
        """That of a cascade which was made with these options."""
        named = {name: options[name] for name in (*POLICY_OPTIONS[1:], "deadline")}
        return cls(task, _Given(options["policy"]), **named)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `Cascade` that say who decides."""
        named = {name: getattr(self, name) for name in (*POLICY_OPTIONS[1:], "deadline")}
        return {"policy": self.policy.policy, **named}


def _watching(observers: Sequence[Observer], *others: Observer | None) -> Sequence[Observer]:
    if isinstance(observers, Observer):  # which is refused
        return observers
    return [*observers, *(other for other in others if other is not None)]


class Varying:
    """A cascade for other tools, another schema or another policy, which shares all the rest."""

    name: str
    options: dict[str, Any]
    tiers: tuple[OpenTier, ...]
    calibration: Calibration | None
    policy: Policy
    task: Task
    signals: tuple[Signal, ...]
    drift: DriftWatch | None
    graph: CompiledStateGraph[CascadeState, None, CascadeInput, CascadeState]
    _walk: Walk
    _signals_without_calibration: tuple[Signal, ...]
    _response_format: ResponseFormat | None
    _checked: Event
    _given_calibration: Calibration | None
    doors: Doors
    _oversight: Oversight
    _start: Start
    _asked: Variation
    _variants: Variants[Variation, Any]
    _build: Build
    _deadline: Deadline
    _hedging: Hedging | None
    _reuse: Wanted | Reuse | None
    _fallback: Fallback
    _pressure: Pressure | None

    def with_task(self, task: Task) -> Self:
        """This cascade for questions with other tools, another schema or other settings.

        It shares models, ledger, policy and watchers with this one, and is kept for the next
        call with the same task. A calibration that was made for another task is left out: the
        confidence is then a raw score, marked `calibrated=False`, which a certificate escalates.
        Tools that are marked here are so there, too, unless the task says otherwise of them.
        """
        marked, own = self.task.risks, task.risks
        task = replace(task, risks=own.besides(marked.tools) if own.tools else marked)
        if task == self.task:
            return self
        other: Self = self._variants[replace(self._asked, task=task)]
        return other

    def with_policy(
        self,
        *,
        price_of_error: float | None = None,
        max_harm: float | None = None,
        escalation_budget: float | None = None,
        deadline: float | None = None,
        policy: Policy | None = None,
    ) -> Self:
        """This cascade for questions about which another policy decides.

        It shares models, connections, ledger, audits and caution with this one, and is kept for
        the next call with the same policy. What is not given stays as it is here; of `policy`,
        `price_of_error`, `max_harm` and `escalation_budget` one decides, and takes the place of
        the one that did.

        The watch for drift sees the drafts of these questions, which no policy changes. Its
        charts of escalations and of harm are about the cascade's own policy and leave them out;
        an alarm makes all of them more careful.

        Args:
            price_of_error: dollars that a wrong answer costs.
            max_harm: bound on P(accepted and wrong) per request, with a certificate for it.
            escalation_budget: share of requests that may be escalated.
            deadline: seconds for a whole run.
            policy: decides, instead of the first three.

        Raises:
            ConfigurationError: the policy needs what is not there, such as a calibration with a
                certificate, or cannot be kept by this cascade; the message says what.
        """
        given = {
            "price_of_error": price_of_error,
            "max_harm": max_harm,
            "escalation_budget": escalation_budget,
            "policy": policy,
        }
        options = dict(self._asked.options)
        if any(value is not None for value in given.values()):
            options |= given
        if deadline is not None:
            options["deadline"] = deadline
        asked = Variation.of(self.task, options)
        if asked == self._asked:
            return self
        other: Self = self._variants[asked]
        return other

    def with_last_tier(self, tier: OpenTier) -> Self:
        """This cascade with another way to its largest model, or at another price.

        Both share all other models, the ledger and the policy. What is learned of calls, and what
        watches drafts, is each one's own: `afinish` ends that of the copy.
        """
        other = copy.copy(self)
        other.tiers = (*self.tiers[:-1], tier)
        other._set_up(self.options["tags"] or {})  # noqa: SLF001 - its own copy
        return other

    async def afinish(self) -> None:
        """Finish audits and what else is under way after replies, note what a watch for drift has
        seen, and end for observers the runs that nobody goes on with.

        Models stay open, also for other cascades that share them.
        """
        await self._oversight.aclose()
        self._oversight.recorder.observers.finish()

    def tier_states(self) -> Mapping[str, TierState]:
        """How each tier stands at this moment, by its name: its circuit breaker, its places."""
        return {tier.name: door_to(self.doors, tier).state for tier in self._all_tiers}

    @property
    def _all_tiers(self) -> tuple[OpenTier, ...]:
        return (*self.tiers, *self._fallback.tiers)

    def _vary(self, asked: Variation) -> Self:
        """The variant of a cascade as it was made."""
        if asked == self._asked:
            return self
        other = copy.copy(self)
        other._become(asked)  # noqa: SLF001 - its own copy
        return other

    def _become(self, asked: Variation) -> None:
        before, self._asked = self._asked, asked
        if asked.task != before.task:
            self._take_task(asked.task)
        if asked.options != before.options:
            self._take_policy(asked.options)
        self._assemble()

    def _take_task(self, task: Task) -> None:
        self.task, self._response_format = task, None
        holds = calibration_for(self.calibration, self.tiers, task)
        if holds is None and self.calibration is not None:
            self.signals = self._signals_without_calibration
            logger.info("%s: its calibration was made for other tools or settings", self.name)
        self.calibration = holds

    def _take_policy(self, options: Mapping[str, Any]) -> None:
        """Decide by other options; the calibration is the whole cascade's, for whatever task."""
        check_kinds(options)
        self.policy = choose_policy(self.tiers, self._given_calibration, **options)
        self.options = {**self.options, **options}
        check_local_only(self.options, self.tiers, self.policy)
        self._oversight = self._oversight.under(self._decides(), self.policy)
        self._deadline = replace(self._deadline, seconds=options["deadline"])
        self._build = self._wire(self.options["tags"] or {})

    def _set_up(self, tags: Mapping[str, str]) -> None:
        """Put together what the variants share, and the graph of the cascade itself."""
        given = self.options
        self._checked = Event()
        self._given_calibration = self.calibration
        watching = _watching(given["observers"], given["lessons"], given["memory"])
        observers = Observers(watching, self.name)
        self.doors = Doors.read(given["resilience"], observers)
        helping = (signal.name for signal in self.signals if signal.model is not None)
        self.doors.check([*(tier.name for tier in self._all_tiers), *helping, "judge"])
        self._pressure = self._pressed()
        self._oversight = self._oversee(tags, observers)
        self.drift = self._oversight.drift
        self._deadline = Deadline(given["deadline"])
        self._build = self._wire(tags)
        self._start = Start(
            self.name,
            self.tiers,
            self._oversight.recorder,
            given["mode"],
            given["canary_share"],
            tags,
            given["verifier"],
        )
        self._asked = Variation.of(self.task, given)
        self._variants = Variants(self._vary)
        self._assemble()

    def _pressed(self) -> Pressure | None:
        """The pressure under which work is left out; None where none ever is."""
        shedding = to_shedding(self.options["shedding"])
        if shedding is None:
            return None
        places = partial(of_bulkheads, self.doors, self.tiers)
        return Pressure(shedding, (places,) if shedding.bulkheads else ())

    def _decides(self) -> Policy:
        given = self.options
        if given["escalation_budget"] is None:
            return self.policy
        # Its threshold is of calibrated confidences.
        raw = choose_policy(self.tiers, None, deadline=given["deadline"])
        return UncalibratedPolicy(self.policy, raw)

    def _oversee(self, tags: Mapping[str, str], observers: Observers) -> Oversight:
        given = self.options
        return oversee(
            self.tiers,
            self._decides(),
            Recorder(given["ledger"], observers),
            task=self.task,
            audits=given["audit_rate"],
            retry=given["retry_policy"],
            doors=self.doors,
            watched=Watched(
                drift=to_drift(given["drift"]),
                calibration=self.calibration,
                promise=self.policy,
                route=given["router"],
                name=self.name,
                tags=tags,
            ),
        )

    def _wire(self, tags: Mapping[str, str]) -> Build:
        given = self.options
        answering = [tier for tier in self.tiers if tier.local or not given["local_only"]]
        return partial(
            build_graph,
            latch=read_latch(given["latch"], len(answering), given["escalation_budget"]),
            tiers=self.tiers,
            policy=self._oversight.policy,
            recorder=self._oversight.recorder,
            judge=given["verifier"],
            route=self._oversight.route,
            deadline_s=self._deadline,
            retry_policy=given["retry_policy"],
            doors=self.doors,
            outlook=self._oversight.outlook,
            watchers=self._oversight.watchers,
            tags=tags,
            local_only=given["local_only"],
            private=given["private"],
            memory=given["memory"],
        )

    def _assemble(self) -> None:
        build = partial(
            self._build,
            task=self.task,
            signals=self.signals,
            calibrators=self._oversight.calibrators if self.calibration else {},
        )
        shadow = Shadow(self._start, self._oversight, build, self.policy, self.task, self._pressure)
        abort = choose_abort(self.options["abort"], self.tiers[0], self.calibration)
        recall = to_recall(
            self.options,
            tiers=self.tiers,
            policy=self.policy,
            task=self.task,
            signals=self.signals,
            calibration=self.calibration,
            recorder=self._oversight.recorder,
            careful=self._is_careful,
        )
        own: dict[str, Any] = {
            "hedging": self._hedging,
            "reuse": self._reuse,
            "fallback": self._fallback,
        }
        own |= {"beside": shadow, "abort": abort, "recall": recall, "pressure": self._pressure}
        self._builder: Any = build(**own)
        self.graph = self._builder.compile(name=self.name)
        self._walk = Walk(self.graph)

    def _way(self, config: RunnableConfig | None) -> Any:
        """What a question goes through: the graph, or its nodes where nothing asks for more."""
        walk = self._walk
        return walk if walk.graph is self.graph and not needs_loop(config) else self.graph

    def _is_careful(self) -> bool:
        """Whether an alarm casts doubt on drafts that were accepted before it."""
        return self.drift is not None and self.drift.caution in ("tighten", "large_only")
