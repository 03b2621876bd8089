"""Gateway: cascades with keys, budgets and places, and the one way of a request through them.

A protocol turns its request into a `Question`, and the `Outcome` back into its own form.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AnyMessage
from starlette.requests import Request
from typing_extensions import override

from cascade.api import Cascade
from cascade.errors import CascadeError, ConfigurationError, LedgerError
from cascade.events import Decided, Event
from cascade.ledger.base import LedgerStore
from cascade.ledger.prices import Price
from cascade.ledger.store import SqlLedger, open_store
from cascade.ledger.view import LedgerView
from cascade.middleware import Breaker, CascadeMiddleware, Retries, Slot
from cascade.middleware.base import Decide
from cascade.policies.base import Policy, Situation
from cascade.result import CascadeResult
from cascade.run import CascadeRuntime, Run, Settings, known_cost
from cascade.service.config import (
    RESTART,
    CascadeConfig,
    Configured,
    ServiceConfig,
    TierConfig,
)
from cascade.service.faults import ServiceError, kind_of, plain_reason
from cascade.service.keys import CASCADE_TAG, KEY_TAG, Backoff, Key, Keys, address_of
from cascade.service.limits import Gate, Money, Rates, estimate, short
from cascade.setup import choose_policy
from cascade.state import Completion, Decision, LedgerEntry, Usage
from cascade.tiers import Tier

if TYPE_CHECKING:
    from cascade.ledger.shared import Reservation

logger = logging.getLogger("cascade")

KINDS = ("price_of_error", "max_harm", "escalation_budget")
"""Ways to decide that a request may ask for."""

MOST_OWNERS = 10_000
"""Runs whose key is remembered."""

BACKGROUND = ("audit", "shadow")
"""Kinds of runs that go on after their answer; what they cost is charged to the key."""


@dataclass(slots=True)
class Question:
    """A request of any protocol.

    Attributes:
        model: the name of a cascade.
        messages: the conversation.
        settings: what it is asked with.
        stream: whether the answer goes out in pieces.
        decide: at most one of `KINDS`, with its number.
        show: `verified`, or `final` for a stream that shows the answer as a whole.
        n: answers that are wanted.
        size: characters of the request, which budgets go by.
        ignored: parameters without a meaning here; the answer names them.
    """

    model: str
    messages: list[AnyMessage]
    settings: Settings
    stream: bool = False
    decide: Mapping[str, float] = field(default_factory=dict)
    show: Literal["verified", "final"] = "verified"
    n: int = 1
    size: int = 0
    ignored: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """A finished run: its result and the answering completion."""

    result: CascadeResult
    completion: Completion | None
    way: Way

    @property
    def usage(self) -> Usage:
        """Tokens of the answering call; rejected drafts and checks are in the ledger's entries,
        since they have other prices and are no part of the client's context."""
        return self.completion.usage if self.completion is not None else Usage()


@dataclass(slots=True)
class Way:
    """Way of one request, for headers, the log and the page, in one form.

    Attributes:
        run_id: of the run.
        cascade: its name.
        key: name of the key.
        at: when it began.
        tier: that answered, empty where none did.
        reason: why that one, in words that name no server.
        error: the kind of failure.
    """

    run_id: str
    cascade: str
    key: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    tier: str = ""
    model: str = ""
    reason: str = ""
    escalated: bool = False
    degraded: bool = False
    confidence: float | None = None
    calibrated: bool = False
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    basis: str = "unknown"
    seconds: float | None = None
    error: str = ""
    steps: list[str] = field(default_factory=list)

    def headers(self) -> dict[str, str]:
        """The way in headers of an answer; what is not known yet is left out."""
        confidence = None if self.confidence is None else f"{self.confidence:.4f}"
        told = {
            "x-cascade-run-id": self.run_id,
            "x-cascade-name": self.cascade,
            "x-cascade-tier": self.tier,
            "x-cascade-model": self.model,
            "x-cascade-reason": self.reason,
            "x-cascade-escalated": str(self.escalated).lower() if self.tier else "",
            "x-cascade-degraded": "true" if self.degraded else "",
            "x-cascade-confidence": confidence,
            "x-cascade-calibrated": None if confidence is None else str(self.calibrated).lower(),
            "x-cascade-cost-usd": None if self.cost_usd is None else f"{self.cost_usd:f}",
            "x-cascade-saved-usd": None if self.saved_usd is None else f"{self.saved_usd:f}",
        }
        return {name: header(value) for name, value in told.items() if value}

    def facts(self) -> dict[str, Any]:
        """The same as fields of a record of the log."""
        names = [name for name in self.__slots__ if name not in ("at", "steps", "cascade")]
        return {name: getattr(self, name) for name in names} | {"cascade_name": self.cascade}


def header(value: str) -> str:
    """Text as the value of a header: one line of visible Latin characters."""
    plain = value.translate(_PLAIN).encode("ascii", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in plain)[:400]


_PLAIN = str.maketrans({"≥": ">=", "≤": "<=", "–": "-", "−": "-", "→": "->", "·": "*", "…": "..."})


class AskedPolicy(CascadeMiddleware):
    """Decides by the policy that a request asks for, in place of the cascade's own."""

    name = "asked_policy"  # it stands within all other middleware of its slot
    slot = Slot.ANSWERS

    def __init__(self) -> None:
        self._policies: dict[tuple[str, float], Policy] = {}

    def choose(self, cascade: Cascade, asked: Mapping[str, float]) -> tuple[str, float]:
        """Make the policy.

        Raises:
            ConfigurationError: it cannot be had of this cascade.
        """
        choice = next(iter(asked.items()))
        if choice not in self._policies:
            if len(self._policies) >= 256:
                self._policies.clear()
            made = choose_policy(cascade.tiers, cascade.calibration, dict([choice]))
            self._policies[choice] = made
        return choice

    @override
    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        asked = run.notes.get(self.name)
        policy = self._policies.get(tuple(asked)) if isinstance(asked, list) else None  # type: ignore[arg-type]
        return handler(situation) if policy is None else policy.decide(situation)


class Served:
    """A cascade under its name; a changed one takes the place of the old for new requests."""

    def __init__(self, name: str, config: CascadeConfig, made: tuple[Cascade, AskedPolicy]) -> None:
        self.name, self.config = name, config
        self.cascade, self.asked = made
        self.active = 0
        self.retired = False
        self.version: float | None = None
        self.gate = Gate(name, config.concurrency, config.queue, config.queue_timeout_s)


class Gateway:
    """All that a service holds.

    Args:
        configured: what is run.
        metrics: middleware of every cascade, such as counters for Prometheus.

    Raises:
        ConfigurationError: with all that cannot work, a line for each.
    """

    def __init__(self, configured: Configured, metrics: Sequence[CascadeMiddleware] = ()) -> None:
        self.configured, self.config = configured, configured.config
        url = self.config.ledger.url if self.config.ledger else "memory://"
        self.store = _open_ledger(self.config)
        self.keys = Keys(url)
        self.money = Money(url, self.config.budgets)
        self.rates, self.backoff = Rates(), Backoff()
        self.ways: deque[Way] = deque(maxlen=self.config.recent)
        self.draining = False
        self.flights: dict[asyncio.Task[Any], str] = {}
        self._metrics = tuple(metrics)
        self._retiring: set[asyncio.Task[None]] = set()
        self._owners: dict[str, str] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self._versions: dict[str, float | None] = {}
        self.served = self._build(self.config, {})
        self._look()

    # --- who asks

    async def key_of(self, request: Request) -> Key | None:
        """The key of a request; None where the service asks for none.

        Raises:
            ServiceError: 401, no key or a wrong one; 429, too many wrong ones from there; 503,
                the service is shutting down.
        """
        if self.draining:
            raise ServiceError(
                503,
                "the service is shutting down: try again.",
                "shutting_down",
                headers={"Connection": "close", "Retry-After": "1"},
            )
        if not self.config.auth:
            return None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        secret = token.strip() if scheme.lower() == "bearer" else ""
        secret = secret or request.headers.get("x-api-key", "")
        key = await self.find_key(request, secret) if secret else None
        if key is None:
            raise ServiceError(
                401,
                "no valid API key: send Authorization: Bearer csk_… (or x-api-key), made by "
                "`cascade keys create`.",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return key

    async def find_key(self, request: Request, secret: str) -> Key | None:
        """The valid key with this secret.

        Raises:
            ServiceError: 429, too many wrong ones came from that address.
        """
        if not self.keys.is_guess(secret):
            return await self.keys.find(secret)
        address = address_of(request.client.host if request.client else "")
        self.backoff.count(address)
        key, wrong = None, False
        try:
            wait_s = self.backoff.wait_s(address)
            if wait_s is not None:
                seconds = int(wait_s) + 1
                raise ServiceError(
                    429,
                    f"too many wrong API keys came from your address: wait {seconds} s.",
                    "too_many_wrong_keys",
                    headers={"Retry-After": str(seconds)},
                )
            key = await self.keys.find(secret)
            wrong = key is None
        finally:
            if not wrong:
                self.backoff.take_back(address)
        return key

    async def admin(self, request: Request) -> Key | None:
        """The admin key of a request.

        Raises:
            ServiceError: 403, it is none.
        """
        key = await self.key_of(request)
        if key is not None and not key.admin:
            raise ServiceError(
                403,
                "this needs an admin key: `cascade keys create … --admin` makes one.",
                "admin_key_needed",
            )
        return key

    def models(self, key: Key | None) -> list[str]:
        """The models that a key may ask for."""
        return [name for name in self.served if key is None or key.may_use(name)]

    def model(self, name: str, key: Key | None) -> Served:
        """One of them.

        Raises:
            ServiceError: 404, there is none; 403, it is not for this key.
        """
        served = self.served.get(name) or self.served.get(name.removesuffix(":latest"))
        if served is None:
            there = ", ".join(self.models(key)) or "none"
            said = f"there is no model {name[:100]!r}; there are {there}."
            raise ServiceError(404, said, "model_not_found", param="model")
        if key is not None and not key.may_use(served.name):
            said = f"this key may not ask for {served.name!r}; it may for {', '.join(key.models)}."
            raise ServiceError(403, said, "model_not_allowed", param="model")
        return served

    # --- asking

    @asynccontextmanager
    async def admitted(
        self, question: Question, key: Key | None, began: float
    ) -> AsyncIterator[Asking]:
        """A place for a question, with its money put aside.

        Args:
            question: that is asked.
            key: of the request.
            began: when it arrived, by `time.monotonic`.

        Raises:
            ServiceError: 402, 403, 404 or 429: it is not admitted.
            ConfigurationError: it asks for a decision that this cascade cannot make.
        """
        if key is not None:
            self.rates.take(key)
        served = self.model(question.model, key)
        cascade, asked = served.cascade, served.asked
        choice = asked.choose(cascade, question.decide) if question.decide else None
        settings = self._settings(question, served, key)
        task = asyncio.current_task()
        assert task is not None, "requests are tasks"
        self.flights[task] = served.name
        held: list[Reservation] = []
        try:
            if key is not None and key.limits:
                await self._put_aside(question, served, key, settings, held)
            deadline = settings.get("deadline")
            until = None if deadline is None else began + deadline
            async with served.gate.place(_left(until)):
                if (left_s := _left(until)) is not None:
                    settings["deadline"] = left_s
                served.active += 1
                try:
                    yield Asking(self, served, cascade, question, settings, choice, key, held)
                finally:
                    served.active -= 1
                    if served.retired and not served.active:
                        self._retire(served)
        finally:
            self.flights.pop(task, None)
            for reservation in held:  # of runs that never began
                self.money.settle(reservation, Decimal(0))

    async def _put_aside(
        self,
        question: Question,
        served: Served,
        key: Key,
        settings: Settings,
        held: list[Reservation],
    ) -> None:
        config = self.config.budgets
        usd = estimate(
            served.cascade,
            config,
            question.size,
            settings.get("max_tokens"),
            served.config.answer_tokens,
        )
        for _ in range(question.n):
            answer = await self.money.put_aside(key, usd, config.wait_s)
            if not isinstance(answer, ServiceError):
                held.append(answer)
                continue
            wish = key.exhausted or config.exhausted
            here = any(tier.local for tier in served.cascade.tiers)
            if answer.status != 402 or wish != "local_only" or not here:
                raise answer
            settings["local_only"] = settings.get("local_only") or True
            return

    def _settings(self, question: Question, served: Served, key: Key | None) -> Settings:
        tags = {**served.config.tags, **question.settings.get("tags", {})}
        tags |= {} if key is None else {**key.tags, KEY_TAG: key.id}
        settings = Settings(**question.settings)
        settings["tags"] = {**tags, CASCADE_TAG: served.name}
        own, asked = served.config.deadline, settings.get("deadline")
        if asked is not None and own is not None:
            settings["deadline"] = min(asked, own)
        elif own is not None:
            settings["deadline"] = own
        return settings

    def finished(self, way: Way, run: Run, error: BaseException | None) -> None:
        """Tell the log and the page how a run ended."""
        self.ways.append(way)
        if not self.config.log.requests:
            return
        cost = "?" if way.cost_usd is None else f"${short(way.cost_usd)}"
        ended = f"failed: {way.error}" if way.error else f"answered by {way.tier or 'none'}"
        bad = bool(way.error) or way.degraded
        logger.log(
            logging.WARNING if bad else logging.INFO,
            "%s: run %s %s (%s); %s, %.0f ms",
            way.cascade,
            run.id,
            ended,
            way.reason or "no decision",
            cost,
            1000 * (way.seconds or 0.0),
            extra=way.facts(),
        )
        if error is not None:
            logger.debug("run %s: %s", run.id, error)

    # --- life

    async def open(self) -> None:
        """Connect to the ledger before the first requests need it; it may also come later."""
        why = None if self.store is None else await self.store.ready()
        if why is not None:
            logger.error("the ledger cannot be written yet: %s", why)

    async def warm(self) -> None:
        """Open connections and load weights before the first requests need them."""
        for name, served in list(self.served.items()):
            for tier in served.cascade.tiers:
                try:
                    await tier.model.warm()
                except Exception as error:  # noqa: BLE001 - one that is not warm answers as well
                    logger.warning("%s: %s is not ready yet: %s", name, tier.name, error)

    async def watch(self) -> None:
        """Load the configuration again when its file or a calibration changes."""
        while True:
            await asyncio.sleep(self.config.watch_s)
            if self._look():
                said = await self.reload()
                logger.info("configuration loaded again: %s", said)

    def _look(self) -> bool:
        """Whether a file has changed since the last look."""
        folder, config = self.configured.folder, self.config
        paths = [self.configured.path]
        paths += [folder / c.calibrator for c in config.cascades.values() if c.calibrator]
        versions = {str(path): _version(path) for path in paths}
        changed = any(self._versions.get(p) != v for p, v in versions.items() if v is not None)
        self._versions = versions
        return changed

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again and run what has changed.

        Returns:
            `changed`: keys that are in force now; `needs_restart`: keys that changed and are not;
            `problems`: why all of it stays as it was.
        """
        try:
            configured = await asyncio.to_thread(self.configured.again)
            new, old = configured.config, self.config
            waits = [name for name in RESTART if getattr(new, name) != getattr(old, name)]
            new = new.model_copy(update={name: getattr(old, name) for name in RESTART})
            self._look()
            served = self._build(new, self.served)
        except CascadeError as error:
            logger.error("the configuration is not loaded: %s", error)
            return {"changed": [], "needs_restart": [], "problems": str(error).splitlines()}
        changed = [
            f"cascades.{name}"
            for name in sorted({*served, *self.served})
            if served.get(name) is not self.served.get(name)
        ]
        changed += [
            name
            for name in ServiceConfig.model_fields
            if name not in ("cascades", *RESTART) and getattr(new, name) != getattr(old, name)
        ]
        gone = [each for each in self.served.values() if each not in served.values()]
        self.served, self.config, self.configured = served, new, configured
        self.ways = deque(self.ways, maxlen=new.recent)
        logging.getLogger("cascade").setLevel(new.log.level.upper())
        for each in gone:
            each.retired = True
            if not each.active:
                self._retire(each)
        return {"changed": changed, "needs_restart": waits, "problems": []}

    def _build(self, config: ServiceConfig, before: Mapping[str, Served]) -> dict[str, Served]:
        served, problems = dict[str, Served](), list[str]()
        for name, given in config.cascades.items():
            known, path = before.get(name), given.calibrator
            version = None if path is None else _version(self.configured.folder / path)
            if known is not None and known.config == given and known.version == version:
                served[name] = known
                continue
            try:
                made = build_cascade(name, given, self.configured.folder, self.store, self._metrics)
            except CascadeError as error:
                problems += [f"cascades.{name}: {line}" for line in str(error).splitlines()]
                continue
            served[name] = Served(name, given, made)
            served[name].version = version
            made[0].kernel.ledger.listeners.append(self._charge)
        if problems:
            raise ConfigurationError("\n".join(problems))
        return served

    def _charge(self, entry: LedgerEntry) -> None:
        """Charge what background work costs to the key of its run."""
        key_id = self._owners.get(entry.run_id)
        if entry.node in BACKGROUND and key_id and self.loop is not None:
            usd = known_cost([entry])
            self.loop.call_soon_threadsafe(self.money.charge, key_id, usd)

    def remember(self, run_id: str, key: Key) -> None:
        """Remember whose a run is, for what it costs after its answer."""
        self._owners[run_id] = key.id
        if len(self._owners) > MOST_OWNERS:
            self._owners.pop(next(iter(self._owners)), None)

    def _retire(self, served: Served) -> None:
        async def closing() -> None:
            try:
                await served.cascade.aclose()
            except Exception:
                logger.exception("%s could not be closed", served.name)

        task = asyncio.ensure_future(closing())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests, and wait for those under way; cancels what takes longer."""
        self.draining = True
        logger.info("shutdown: %d requests have %g s to finish", len(self.flights), grace_s)
        if self.flights:
            await asyncio.wait(list(self.flights), timeout=grace_s)
        for task, name in list(self.flights.items()):
            logger.warning("%s: a request was still running and is cancelled", name)
            task.cancel()
        if self.flights:
            await asyncio.wait(list(self.flights), timeout=5.0)

    async def aclose(self) -> None:
        """Finish audits, write what waits, and disconnect."""
        for served in self.served.values():
            await served.cascade.aclose()
        if self._retiring:
            await asyncio.wait(self._retiring)
        await self.money.aclose()
        await self.keys.aclose()
        if self.store is not None:
            try:
                await self.store.aclose()
            except LedgerError as error:
                logger.error("the ledger was not written to its end: %s", error)


class Asking:
    """A question that was admitted."""

    def __init__(
        self,
        gateway: Gateway,
        served: Served,
        cascade: Cascade,
        question: Question,
        settings: Settings,
        choice: tuple[str, float] | None,
        key: Key | None,
        held: list[Reservation],
    ) -> None:
        self._gateway, self._served, self._cascade = gateway, served, cascade
        self._question, self._settings, self._choice = question, settings, choice
        self._key, self._held = key, held

    async def answer(self, tell: Callable[[Way, Event], None] | None = None) -> Outcome:
        """Run the cascade once.

        Args:
            tell: hears what happens, for a stream.

        Raises:
            CascadeError: no tier could answer.
        """
        cascade, question = self._cascade, self._question
        reservation = self._held.pop() if self._held else None
        run = cascade.kernel.begin(question.messages, self._settings)
        if self._choice is not None:
            run.notes[AskedPolicy.name] = list(self._choice)
        way = Way(run.id, self._served.name, self._key.name if self._key else "")
        runtime = CascadeRuntime(cascade.kernel, show="final")
        if tell is not None:

            def emit(event: Event) -> None:
                if isinstance(event, Decided):
                    self._decided(way, event)
                tell(way, event)

            runtime.emit, runtime.streams, runtime.show = emit, True, question.show
        if self._key is not None and self._key.limits:
            self._gateway.remember(run.id, self._key)
        begun, raised = time.perf_counter(), None
        try:
            result = await cascade.adrive(run, runtime)
        except BaseException as error:
            raised = error
            way.error = (
                "the client left" if isinstance(error, asyncio.CancelledError) else kind_of(error)
            )
            raise
        finally:
            way.seconds = time.perf_counter() - begun
            self._complete(way, run)
            if reservation is not None:
                self._gateway.money.settle(reservation, known_cost(run.entries))
            if raised is not None:
                self._gateway.finished(way, run, raised)
        self._tell(way, result)
        self._gateway.finished(way, run, None)
        return Outcome(result, None if result.abstained else run.draft, way)

    def _decided(self, way: Way, event: Decided) -> None:
        """What a decision says of who answers, for the headers of a stream."""
        names = [tier.name for tier in self._cascade.tiers]
        decision = event.decision
        way.tier = event.tier
        if decision.action == "escalate" and event.tier in names[:-1]:
            way.tier = decision.tier or names[names.index(event.tier) + 1]
        way.escalated = way.tier != names[0]
        way.reason = plain_reason(decision.reason, ())
        way.confidence, way.calibrated = decision.confidence, decision.calibrated
        way.model = self._model_of(way.tier)

    def _model_of(self, tier: str) -> str:
        return next((t.model.name for t in self._cascade.tiers if t.name == tier), "")

    def _tell(self, way: Way, result: CascadeResult) -> None:
        way.tier = "" if result.abstained else result.tier
        way.model = self._model_of(result.tier)
        way.escalated, way.degraded = result.escalated, result.degraded
        way.confidence, way.calibrated = result.confidence, result.calibrated
        way.reason = plain_reason(result.decision.reason, _failures(result.ledger))

    def _complete(self, way: Way, run: Run) -> None:
        ledger = LedgerView(run.entries)
        way.cost_usd, way.saved_usd = ledger.cost_usd, ledger.saved_usd
        order = ("unknown", "estimated", "measured")
        way.basis = min(ledger.cost_basis, ledger.saved_basis, key=order.index)
        for entry in run.entries:
            cost = "?" if entry.cost_usd is None else f"${short(entry.cost_usd)}"
            who = f"{entry.node} {entry.tier or ''}".strip()
            ended = "" if entry.outcome == "ok" else f" {entry.outcome.replace('_', ' ')}"
            way.steps.append(f"{who}{ended} {entry.latency_ms:.0f} ms {cost}")
        if way.error and not way.reason:
            way.reason = "; ".join(_failures(run.entries)) or way.error


def _left(until: float | None) -> float | None:
    """Seconds that are left of a request's deadline.

    Raises:
        ServiceError: 504, none.
    """
    if until is None:
        return None
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise ServiceError(
            504, "the deadline passed before a model was asked.", "deadline_exceeded"
        )
    return left_s


def _failures(entries: Iterable[LedgerEntry]) -> list[str]:
    """The tiers that failed, with the kind of each failure."""
    found = dict[str, str]()
    for entry in entries:
        if entry.tier and entry.outcome in ("failed", "not_sent", "cancelled"):
            found[entry.tier] = _kind_in(entry)
    return [f"{tier}: {kind}" for tier, kind in found.items()]


_WORDS = (
    ("rate limit", "rate limited"),
    ("(429)", "rate limited"),
    ("in time", "timed out"),
    ("broke the stream off", "broke off"),
    ("cannot be read", "unreadable answer"),
    ("refused", "refused the request"),
    ("(401)", "refused the key"),
    ("(404)", "not found"),
)


def _kind_in(entry: LedgerEntry) -> str:
    """The kind of failure that an entry's note tells of; the note itself names servers."""
    if entry.outcome == "not_sent":
        return "left alone after failures"
    if entry.outcome == "cancelled":
        return "stopped"
    return next((kind for word, kind in _WORDS if word in entry.note), "unavailable")


def _version(path: Path) -> float | None:
    """The time of a file's last change; None where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


# --- from a configuration to cascades


def _open_ledger(config: ServiceConfig) -> SqlLedger | None:
    given = config.ledger
    if given is None:
        return None
    return open_store(
        given.url, crash_safe=given.crash_safe, durable=given.durable, jobs=given.jobs
    )


_SAME = [
    "threshold",
    "price_of_error",
    "max_harm",
    "escalation_budget",
    "deadline",
    "response_format",
    "local_only",
    "signals",
]
"""Options that a cascade takes as they stand in its configuration."""


def build_cascade(
    name: str,
    config: CascadeConfig,
    folder: Path,
    store: LedgerStore | None,
    metrics: Sequence[CascadeMiddleware] = (),
) -> tuple[Cascade, AskedPolicy]:
    """One cascade, and the middleware by which requests say how they are decided.

    Raises:
        ConfigurationError: it cannot work; the message says why.
    """
    options: dict[str, Any] = {option: getattr(config, option) for option in _SAME}
    if config.calibrator is not None:
        options["calibrator"] = folder / config.calibrator
    asked = AskedPolicy()
    stack = [asked, *metrics, *_middleware(config, store)]
    if config.private is not None:
        from cascade.middleware.local_only import LocalOnly, looks_personal  # noqa: PLC0415

        stack.append(LocalOnly(options.pop("local_only"), private=looks_personal))
    tiers = [open_config(tier, config.tiers, n) for n, tier in enumerate(config.tiers)]
    return Cascade(tiers=tiers, ledger=store, middleware=stack, name=name, **options), asked


def _middleware(config: CascadeConfig, store: LedgerStore | None) -> list[CascadeMiddleware]:
    from cascade import middleware as ready  # noqa: PLC0415 - only what is asked for is loaded

    stack: list[CascadeMiddleware] = [
        Retries(**config.retries.model_dump()),
        Breaker(**config.breaker.model_dump()),
    ]
    if config.abort:
        stack.append(ready.Abort() if config.abort is True else ready.Abort(config.abort))
    if config.sticky:
        stack.append(ready.Sticky())
    if config.tool_risks is not None:
        stack.append(ready.ToolRisks(config.tool_risks))
    if config.fallback is not None:
        stack.append(ready.Fallback(open_config(config.fallback, (config.fallback,), 0)))
    if config.mode != "live":
        stack.append(ready.Shadow(config.canary_share if config.mode == "canary" else 0.0))
    if config.drift is not None:
        stack.append(ready.Drift(config.drift))
    if (audits := config.audits) is not None:
        if store is None:
            raise ConfigurationError("audits need a ledger, their place: set ledger.")
        judge = None if audits.judge is None else open_config(audits.judge, (audits.judge,), 0)
        daily_usd, compare = audits.daily_usd, audits.compare
        stack.append(ready.Audits(audits.rate, daily_usd=daily_usd, compare=compare, judge=judge))
    return stack


def open_config(config: TierConfig, among: Sequence[TierConfig], number: int) -> Tier:
    """A tier as its cascade takes it; of two without names, they are `small` and `large`.

    Raises:
        ConfigurationError: its price prices nothing, or its key is not in the environment.
    """
    pair = ("small", "large")[number] if len(among) == 2 else None
    key = config.api_key
    if key is None and config.api_key_env is not None:
        key = os.environ.get(config.api_key_env)
        if not key:
            raise ConfigurationError(
                f"api_key_env: the environment variable {config.api_key_env} is not set."
            )
    return Tier(
        config.model,
        name=config.name or pair,
        price=None if config.price is None else _price(config),
        base_url=config.base_url,
        api_key=key,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        timeout_s=config.timeout_s,
        options=config.options,
        local=config.local,
    )


def _price(config: TierConfig) -> Price:
    assert config.price is not None, "it was given"
    return Price(**config.price.model_dump(exclude_none=True))
