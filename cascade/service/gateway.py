"""Gateway: cascades with keys, budgets and places, and the one way of a request through them.

A protocol turns its request into a `Question`, and the `Outcome` back into its own form.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from langchain_core.messages import AnyMessage, ToolCall
from starlette.requests import Request
from typing_extensions import override

from cascade import middleware as ready
from cascade.api import Cascade
from cascade.errors import CascadeError, ConfigurationError, LedgerError
from cascade.events import Decided, Event
from cascade.ledger.base import LedgerStore
from cascade.ledger.shared import Reservation
from cascade.ledger.store import open_store
from cascade.ledger.view import LedgerView
from cascade.middleware import CascadeMiddleware, Slot
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
from cascade.service.faults import ServiceError, failures, kind_of, plain_reason
from cascade.service.keys import CASCADE_TAG, KEY_TAG, Key, Keys, address_of
from cascade.service.limits import Gate, Money, Rates, estimate, short
from cascade.setup import choose_policy
from cascade.state import Completion, Decision, LedgerEntry, Usage
from cascade.tiers import Tier

logger = logging.getLogger("cascade")

KINDS = ("price_of_error", "max_harm", "escalation_budget")
"""Ways to decide that a request may ask for."""

WRONG_AT_ONCE, WRONG_PER_MINUTE = 20, 6
"""Unknown keys of one address that are looked up: a team behind it mistypes some. A known key is
never held up, so that others behind the same proxy cannot be locked out."""

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
        size: characters of the request, which budgets go by.
        decide: at most one of `KINDS`, with its number.
        show: `verified`, or `final` for a stream that shows the answer as a whole.
        began: when it arrived, by `time.monotonic`.
    """

    model: str
    messages: list[AnyMessage]
    settings: Settings
    size: int
    decide: Mapping[str, float] = field(default_factory=dict)
    show: Literal["verified", "final"] = "verified"
    began: float = field(default_factory=time.monotonic)


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

    @property
    def refusal(self) -> str | None:
        """What a client is told where the cascade gives no answer on purpose."""
        return f"No answer: {self.way.reason}." if self.result.abstained else None

    @property
    def text(self) -> str:
        """The answer, or the refusal."""
        return self.refusal or self.result.answer

    @property
    def calls(self) -> Sequence[ToolCall]:
        """The tools that the answer calls."""
        return () if self.completion is None else self.completion.tool_calls

    @property
    def finish_reason(self) -> Literal["stop", "length", "tool_calls", "content_filter"]:
        """Why the answer ended, in OpenAI's words."""
        if self.calls:
            return "tool_calls"
        reason = self.completion.finish_reason if self.completion is not None else None
        if reason == "length":
            return "length"
        return "content_filter" if reason == "content_filter" else "stop"


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
            "x-cascade-calibrated": str(self.calibrated).lower() if confidence else "",
            "x-cascade-cost-usd": None if self.cost_usd is None else f"{self.cost_usd:f}",
            "x-cascade-saved-usd": None if self.saved_usd is None else f"{self.saved_usd:f}",
        }
        return {name: header(value) for name, value in told.items() if value}

    def facts(self) -> dict[str, Any]:
        """The same as fields of a record of the log."""
        names = [name for name in self.__slots__ if name not in ("at", "steps", "cascade")]
        return {name: getattr(self, name) for name in names} | {"cascade_name": self.cascade}

    def complete(self, entries: list[LedgerEntry]) -> None:
        """Add what a run cost and saved, and its steps."""
        ledger = LedgerView(entries)
        self.cost_usd, self.saved_usd = ledger.cost_usd, ledger.saved_usd
        order = ("unknown", "estimated", "measured")
        self.basis = min(ledger.cost_basis, ledger.saved_basis, key=order.index)
        for entry in entries:
            cost = "?" if entry.cost_usd is None else f"${short(entry.cost_usd)}"
            who = f"{entry.node} {entry.tier or ''}".strip()
            ended = "" if entry.outcome == "ok" else f" {entry.outcome.replace('_', ' ')}"
            self.steps.append(f"{who}{ended} {entry.latency_ms:.0f} ms {cost}")
        if self.error and not self.reason:
            self.reason = "; ".join(failures(entries)) or self.error


_PLAIN = str.maketrans({"≥": ">=", "≤": "<=", "–": "-", "−": "-", "→": "->", "·": "*", "…": "..."})


def header(value: str) -> str:
    """Text as the value of a header: one line of visible Latin characters."""
    plain = value.translate(_PLAIN).encode("ascii", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in plain)[:400]


class AskedPolicy(CascadeMiddleware):
    """Decides by the policy that a request asks for, in place of the cascade's own."""

    name = "asked_policy"  # it stands within all other middleware of its slot
    slot = Slot.ANSWERS

    def __init__(self) -> None:
        self._policies: dict[tuple[str, float], Policy] = {}

    def choose(self, cascade: Cascade, asked: Mapping[str, float]) -> tuple[str, float]:
        """Make the policy; an error where it cannot be had of this cascade."""
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
        self.retired = False
        self.version: float | None = None
        self.gate = Gate(name, config.concurrency, config.queue, config.queue_timeout_s)

    def model_of(self, tier: str) -> str:
        """The model of a tier."""
        return next((t.model.name for t in self.cascade.tiers if t.name == tier), "")


class Gateway:
    """All that a service holds.

    Args:
        configured: what is run.
        metrics: middleware of every cascade, such as counters for Prometheus.
    """

    def __init__(self, configured: Configured, metrics: Sequence[CascadeMiddleware] = ()) -> None:
        self.configured, self.config = configured, configured.config
        kept = self.config.ledger
        url = "memory://" if kept is None else kept.url
        self.store = None if kept is None else open_store(**kept.model_dump())
        self.keys = Keys(url)
        self.money = Money(url, self.config.budgets)
        self.rates, self.guesses = Rates(), Rates()
        self.ways: deque[Way] = deque(maxlen=self.config.recent)
        self._metrics = tuple(metrics)
        self._retiring: set[asyncio.Task[None]] = set()
        self._owners: dict[str, str] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self._versions: dict[Path, float | None] = {}
        self.served = self._build(self.config, {})
        self._look()

    # --- who asks

    async def key_of(self, request: Request) -> Key | None:
        """The key of a request; None where the service asks for none."""
        if not self.config.auth:
            return None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        secret = token.strip() if scheme.lower() == "bearer" else ""
        secret = secret or request.headers.get("x-api-key", "")
        key = await self.find_key(request, secret) if secret else None
        if key is None:
            raise ServiceError(
                401,
                "no valid API key: send Authorization: Bearer csk_…, of `cascade keys create`.",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return key

    async def find_key(self, request: Request, secret: str) -> Key | None:
        """The valid key with this secret; 429 where too many wrong ones came from its address."""
        if not self.keys.is_guess(secret):
            return await self.keys.find(secret)
        address, wrong = address_of(request.client.host if request.client else ""), False
        wait_s = self.guesses.take(address, WRONG_PER_MINUTE, WRONG_AT_ONCE)
        if wait_s:
            said = f"too many wrong API keys came from your address: wait {wait_s} s."
            raise _too_many(said, "too_many_wrong_keys", wait_s)
        try:
            key = await self.keys.find(secret)
            wrong = key is None
        finally:
            if not wrong:
                self.guesses.give_back(address)
        return key

    async def admin(self, request: Request) -> None:
        """Ask for an admin key."""
        key = await self.key_of(request)
        if key is not None and not key.admin:
            said = "this needs an admin key: `cascade keys create … --admin` makes one."
            raise ServiceError(403, said, "admin_key_needed")

    def models(self, key: Key | None) -> list[str]:
        """The models that a key may ask for."""
        return [name for name in self.served if key is None or key.may_use(name)]

    def model(self, name: str, key: Key | None) -> Served:
        """One of them: 404 where there is none, 403 where it is not for this key."""
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

    async def ask(
        self,
        question: Question,
        key: Key | None,
        tell: Callable[[Way, Event], None] | None = None,
    ) -> Outcome:
        """Run a cascade once, in a place of its own, with its money put aside.

        Args:
            question: that is asked.
            key: of the request.
            tell: hears what happens, for a stream.

        Raises:
            ServiceError: it is not admitted.
            CascadeError: no tier could answer.
        """
        if key is not None and key.per_minute is not None:
            wait_s = self.rates.take(key.id, key.per_minute)
            if wait_s:
                said = f"this key may ask {key.per_minute:g} times a minute: wait {wait_s} s."
                raise _too_many(said, "rate_limit_exceeded", wait_s)
        served = self.model(question.model, key)
        cascade = served.cascade
        settings = self._settings(question, served, key)
        choice = served.asked.choose(cascade, question.decide) if question.decide else None
        reservation = await self._put_aside(question, served, key, settings)
        spent_usd = Decimal(0)
        try:
            async with served.gate.place(_left(question, settings)):
                left_s = _left(question, settings)
                if left_s is not None:
                    settings["deadline"] = left_s
                run = cascade.kernel.begin(question.messages, settings)
                if choice is not None:
                    run.notes[AskedPolicy.name] = list(choice)
                if key is not None and key.limits:
                    self._remember(run.id, key)
                try:
                    return await self._run(served, run, key, question, tell)
                finally:
                    spent_usd = known_cost(run.entries)
        finally:
            if reservation is not None:
                self.money.settle(reservation, spent_usd)
            if served.retired and served.gate.idle:
                self._retire(served)

    async def _run(
        self,
        served: Served,
        run: Run,
        key: Key | None,
        question: Question,
        tell: Callable[[Way, Event], None] | None,
    ) -> Outcome:
        way = Way(run.id, served.name, key.name if key else "")
        runtime = CascadeRuntime(served.cascade.kernel, show="final")
        if tell is not None:

            def emit(event: Event) -> None:
                if isinstance(event, Decided):
                    _decided(way, event, served)
                tell(way, event)

            runtime.emit, runtime.streams, runtime.show = emit, True, question.show
        begun = time.perf_counter()
        try:
            result = await served.cascade.adrive(run, runtime)
        except BaseException as error:
            left = isinstance(error, asyncio.CancelledError)
            way.error = "the client left" if left else kind_of(error)
            logger.debug("run %s: %s", run.id, error)
            raise
        else:
            way.tier = "" if result.abstained else result.tier
            way.model = served.model_of(result.tier)
            way.escalated, way.degraded = result.escalated, result.degraded
            way.confidence, way.calibrated = result.confidence, result.calibrated
            way.reason = plain_reason(result.decision.reason, failures(result.ledger))
        finally:
            way.seconds = time.perf_counter() - begun
            way.complete(run.entries)
            self._finished(way)
        return Outcome(result, None if result.abstained else run.draft, way)

    async def _put_aside(
        self, question: Question, served: Served, key: Key | None, settings: Settings
    ) -> Reservation | None:
        """Put the money of a question aside; one that may stay on this machine instead, does."""
        if key is None or not key.limits:
            return None
        config, most = self.config.budgets, settings.get("max_tokens")
        usd = estimate(served.cascade, config, question.size, most, served.config.answer_tokens)
        answer = await self.money.put_aside(key, usd, config.wait_s)
        if not isinstance(answer, ServiceError):
            return answer
        here = any(tier.local for tier in served.cascade.tiers)
        local_only = (key.exhausted or config.exhausted) == "local_only"
        if answer.status != 402 or not (local_only and here):
            raise answer
        settings["local_only"] = settings.get("local_only") or True
        return None

    def _settings(self, question: Question, served: Served, key: Key | None) -> Settings:
        tags = {**served.config.tags, **question.settings.get("tags", {})}
        tags |= {} if key is None else {**key.tags, KEY_TAG: key.id}
        settings = Settings(**question.settings)
        settings["tags"] = {**tags, CASCADE_TAG: served.name}
        deadlines = (served.config.deadline, settings.get("deadline"))
        settings["deadline"] = min(filter(None, deadlines), default=None)
        return settings

    def _finished(self, way: Way) -> None:
        """Tell the log and the page how a run ended."""
        self.ways.append(way)
        if not self.config.log.requests:
            return
        cost = "?" if way.cost_usd is None else f"${short(way.cost_usd)}"
        ended = f"failed: {way.error}" if way.error else f"answered by {way.tier or 'none'}"
        told = f"{way.cascade}: run {way.run_id} {ended} ({way.reason or 'no decision'}); {cost}, "
        level = logging.WARNING if way.error or way.degraded else logging.INFO
        logger.log(level, "%s%.0f ms", told, 1000 * (way.seconds or 0.0), extra=way.facts())

    def _charge(self, entry: LedgerEntry) -> None:
        """Charge what background work costs to the key of its run."""
        key_id = self._owners.get(entry.run_id)
        if entry.node in BACKGROUND and key_id and self.loop is not None:
            self.loop.call_soon_threadsafe(self.money.charge, key_id, known_cost([entry]))

    def _remember(self, run_id: str, key: Key) -> None:
        """Remember whose a run is, for what it costs after its answer."""
        self._owners[run_id] = key.id
        if len(self._owners) > MOST_OWNERS:
            self._owners.pop(next(iter(self._owners)), None)

    # --- life

    async def open(self) -> None:
        """Connect to the ledger before the first requests need it; it may also come later."""
        self.loop = asyncio.get_running_loop()
        why = None if self.store is None else await self.store.ready()
        if why is not None:
            logger.error("the ledger cannot be written yet: %s", why)
        elif self.config.auth and all(key.revoked_at for key in await self.keys.list()):
            logger.warning("there is no valid key yet: `cascade keys create` makes one")

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
                await self.reload()

    def _look(self) -> bool:
        """Whether a file has changed since the last look."""
        folder, cascades = self.configured.folder, self.config.cascades.values()
        paths = [self.configured.path, *(folder / c.calibrator for c in cascades if c.calibrator)]
        versions = {path: _version(path) for path in paths}
        changed = any(self._versions.get(p) != v for p, v in versions.items() if v is not None)
        self._versions = versions
        return changed

    async def reload(self) -> dict[str, list[str]]:
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
        others = [name for name in ServiceConfig.model_fields if name != "cascades"]
        changed += [name for name in others if getattr(new, name) != getattr(old, name)]
        gone = [each for each in self.served.values() if each not in served.values()]
        self.served, self.config, self.configured = served, new, configured
        self.ways = deque(self.ways, maxlen=new.recent)
        logger.setLevel(new.log.level.upper())
        for each in gone:
            each.retired = True
            if each.gate.idle:
                self._retire(each)
        logger.info("configuration loaded again; changed: %s", ", ".join(changed) or "nothing")
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

    def _retire(self, served: Served) -> None:
        async def closing() -> None:
            try:
                await served.cascade.aclose()
            except Exception:
                logger.exception("%s could not be closed", served.name)

        task = asyncio.ensure_future(closing())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

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


def _decided(way: Way, event: Decided, served: Served) -> None:
    """Note what a decision says of who answers, for the headers of a stream."""
    names = [tier.name for tier in served.cascade.tiers]
    decision = event.decision
    way.tier = event.tier
    if decision.action == "escalate" and event.tier in names[:-1]:
        way.tier = decision.tier or names[names.index(event.tier) + 1]
    way.escalated = way.tier != names[0]
    way.reason = plain_reason(decision.reason, ())
    way.confidence, way.calibrated = decision.confidence, decision.calibrated
    way.model = served.model_of(way.tier)


def _too_many(said: str, code: str, wait_s: int) -> ServiceError:
    return ServiceError(429, said, code, headers={"Retry-After": str(wait_s)})


def _left(question: Question, settings: Settings) -> float | None:
    """Seconds that are left of a request's deadline; 504 where there are none."""
    deadline = settings.get("deadline")
    if deadline is None:
        return None
    left_s = question.began + deadline - time.monotonic()
    if left_s <= 0:
        said = "the deadline passed before a model was asked."
        raise ServiceError(504, said, "deadline_exceeded")
    return left_s


def _version(path: Path) -> float | None:
    """The time of a file's last change; None where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


# --- from a configuration to cascades


_SAME = (*KINDS, "threshold", "deadline", "response_format", "local_only", "signals")
"""Options that a cascade takes as they stand in its configuration."""


def build_cascade(
    name: str,
    config: CascadeConfig,
    folder: Path,
    store: LedgerStore | None,
    metrics: Sequence[CascadeMiddleware] = (),
) -> tuple[Cascade, AskedPolicy]:
    """One cascade, and the middleware by which requests say how they are decided."""
    options: dict[str, Any] = {option: getattr(config, option) for option in _SAME}
    if config.calibrator is not None:
        options["calibrator"] = folder / config.calibrator
    asked = AskedPolicy()
    stack = [asked, *metrics, *_middleware(config, store)]
    if config.private is not None:
        from cascade.middleware.local_only import LocalOnly, looks_personal  # noqa: PLC0415

        stack.append(LocalOnly(options.pop("local_only"), private=looks_personal))
    pair = ("small", "large") if len(config.tiers) == 2 else ()
    tiers = [open_tier(tier, *pair[n : n + 1]) for n, tier in enumerate(config.tiers)]
    return Cascade(tiers=tiers, ledger=store, middleware=stack, name=name, **options), asked


def _middleware(config: CascadeConfig, store: LedgerStore | None) -> list[CascadeMiddleware]:
    stack: list[CascadeMiddleware] = [
        ready.Retries(config.retries),
        ready.Breaker(config.breaker),
    ]
    if config.abort:
        stack.append(ready.Abort() if config.abort is True else ready.Abort(config.abort))
    if config.sticky:
        stack.append(ready.Sticky())
    if config.tool_risks is not None:
        stack.append(ready.ToolRisks(config.tool_risks))
    if config.fallback is not None:
        stack.append(ready.Fallback(open_tier(config.fallback)))
    if config.mode != "live":
        stack.append(ready.Shadow(config.canary_share if config.mode == "canary" else 0.0))
    if config.drift is not None:
        stack.append(ready.Drift(config.drift))
    if (audits := config.audits) is not None:
        if store is None:
            raise ConfigurationError("audits need a ledger, their place: set ledger.")
        judge = None if audits.judge is None else open_tier(audits.judge)
        daily_usd, compare = audits.daily_usd, audits.compare
        stack.append(ready.Audits(audits.rate, daily_usd=daily_usd, compare=compare, judge=judge))
    return stack


def open_tier(config: TierConfig, usual: str | None = None) -> Tier:
    """A tier as its cascade takes it; `usual` is its name where the configuration gives none."""
    given = {**dict(config), "name": config.name or usual}
    del given["api_key_env"]
    if config.api_key is None and config.api_key_env is not None:
        given["api_key"] = os.environ.get(config.api_key_env)
        if not given["api_key"]:
            raise ConfigurationError(
                f"api_key_env: the environment variable {config.api_key_env} is not set."
            )
    return Tier(**given)
