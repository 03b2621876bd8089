"""Gateway: cascades with keys, budgets and places, and the one way of a request through them.

A protocol turns its request into a `Question`, and the `Outcome` back into its own form.
"""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import b64decode
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
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
from cascade.ledger.export import failures, plain_reason
from cascade.ledger.ledger import BACKGROUND
from cascade.ledger.shared import Reservation
from cascade.ledger.store import open_store
from cascade.ledger.view import LedgerView
from cascade.middleware import CascadeMiddleware, Slot
from cascade.middleware.base import Decide
from cascade.middleware.local_only import LocalOnly, looks_personal
from cascade.policies.base import Policy, Situation
from cascade.questions import to_messages
from cascade.result import CascadeResult
from cascade.run import CascadeRuntime, Run, Settings, known_cost
from cascade.service.config import RESTART, CascadeConfig, Configured, ServiceConfig
from cascade.service.faults import ServiceError, kind_of
from cascade.service.keys import CASCADE_TAG, KEY_TAG, Key, Keys, address_of
from cascade.service.limits import Money, Rates, estimate, short, too_many
from cascade.setup import choose_policy
from cascade.state import Completion, Decision, LedgerEntry, Usage

logger = logging.getLogger("cascade")

WATCH_S = 2.0
"""Seconds between two looks at the configuration and the calibrations."""

RECENT = 500
"""Finished requests that the page can show."""

WRONG_AT_ONCE, WRONG_PER_MINUTE = 20, 6
"""Unknown keys of one address that are looked up: a team behind it mistypes some. A known key is
never held up, so that others behind the same proxy cannot be locked out."""

PATIENCE_S = 30.0
"""Longest wait of a request for one of the places of its cascade."""

MOST_OWNERS = 10_000
"""Runs whose key is remembered."""

Tell = Callable[["Way", Event], None]
"""Hears what happens in a run, for a stream."""


@dataclass(slots=True)
class Question:
    """A request of any protocol: the cascade that it asks, and how. Budgets go by its `size` in
    characters; it `began` when it arrived, by `time.monotonic`."""

    served: Served
    messages: list[AnyMessage]
    settings: Settings
    size: int
    price_of_error: float | None
    began: float

    def left_s(self) -> float | None:
        """Seconds that are left of its deadline; 504 where there are none."""
        deadline = self.settings.get("deadline")
        left_s = None if deadline is None else self.began + deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            said = "the deadline passed before a model was asked."
            raise ServiceError(504, said, "deadline_exceeded")
        return left_s


@dataclass(slots=True)
class Way:
    """Way of one request, for its answer's headers and extension, the log and the page: the tier
    that answered, empty where none did, and the reason or the failure in words that name no
    server."""

    run_id: str
    name: str
    key: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    tier: str = ""
    model: str = ""
    reason: str = ""
    escalated: bool | None = None
    degraded: bool = False
    confidence: float | None = None
    calibrated: bool | None = None
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    basis: str | None = None
    seconds: float = 0.0
    error: str = ""
    entries: Sequence[LedgerEntry] = ()

    def facts(self) -> dict[str, Any]:
        """What answers and the log say of it; None where it is unknown."""
        left_out = ("key", "at", "seconds", "error", "entries")
        return {name: getattr(self, name) for name in self.__slots__ if name not in left_out}

    def headers(self) -> dict[str, str]:
        """The facts in headers of an answer; what is not known yet is left out."""
        known = {name: v for name, v in self.facts().items() if v is not None and v != ""}
        return {f"x-cascade-{n.replace('_', '-')}": header(value) for n, value in known.items()}

    def end(self, ledger: LedgerView, begun: float) -> None:
        """Note what the run cost and saved, and how long it took."""
        self.entries, self.seconds = ledger.entries, time.perf_counter() - begun
        self.cost_usd, self.saved_usd = ledger.cost_usd, ledger.saved_usd
        order = ("unknown", "estimated", "measured")
        self.basis = min(ledger.cost_basis, ledger.saved_basis, key=order.index)
        if self.error and not self.reason:
            self.reason = "; ".join(failures(ledger)) or self.error

    def steps(self) -> list[str]:
        """What each node did, how long it took and what it cost."""
        told = []
        for entry in self.entries:
            cost = "?" if entry.cost_usd is None else f"${short(entry.cost_usd)}"
            ended = "" if entry.outcome == "ok" else f" {entry.outcome.replace('_', ' ')}"
            tier = f" {entry.tier}" if entry.tier else ""
            told.append(f"{entry.node}{tier}{ended} {entry.latency_ms:.0f} ms {cost}")
        return told


_PLAIN = str.maketrans({"≥": ">=", "≤": "<=", "–": "-", "−": "-", "→": "->", "·": "*", "…": "..."})


def header(value: str | float | Decimal) -> str:
    """The value of a header: one line of visible Latin characters."""
    if not isinstance(value, str):
        if isinstance(value, bool):
            return str(value).lower()
        return f"{value:f}" if isinstance(value, Decimal) else f"{value:.4f}"
    if not value.isascii():
        value = value.translate(_PLAIN).encode("ascii", "replace").decode()
    if not value.isprintable():
        value = "".join(c if c.isprintable() else " " for c in value)
    return value[:400]


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
        """Words for a client where the cascade gives no answer on purpose."""
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
        """Reason why the answer ended, in OpenAI's words."""
        if self.calls:
            return "tool_calls"
        reason = None if self.completion is None else self.completion.finish_reason
        if reason == "length":
            return "length"
        return "content_filter" if reason == "content_filter" else "stop"

    def extension(self) -> dict[str, Any]:
        """The extension `cascade` of an answer. Dollars are null where they are unknown."""
        facts = self.way.facts()
        for name in ("cost_usd", "saved_usd"):
            facts[name] = None if facts[name] is None else float(facts[name])
        return {
            **facts,
            "abstained": self.result.abstained,
            "action": self.result.decision.action,
            "cost_basis": self.result.ledger.cost_basis,
            "saved_basis": self.result.ledger.saved_basis,
        }


class OwnPrice(CascadeMiddleware):
    """Decides by a request's own price of an error, in place of the cascade's policy."""

    name = "own_price"  # it stands within all other middleware of its slot
    slot = Slot.ANSWERS
    cascade: Cascade

    def __init__(self) -> None:
        self.policy: Callable[[float], Policy] = lru_cache(256)(self._policy)

    def _policy(self, usd: float) -> Policy:
        cascade = self.cascade
        return choose_policy(cascade.tiers, cascade.calibration, price_of_error=usd)

    @override
    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        usd: Any = run.notes.get(self.name)
        return handler(situation) if usd is None else self.policy(usd).decide(situation)


class Served:
    """A cascade under its name; a changed one takes the place of the old for new requests."""

    def __init__(
        self,
        name: str,
        config: CascadeConfig,
        folder: Path,
        store: LedgerStore | None,
        metrics: Sequence[CascadeMiddleware],
    ) -> None:
        self.name, self.config, self.busy = name, config, 0
        self.version: float | None = None
        self.own_price = OwnPrice()
        stack = [self.own_price, *metrics, *_middleware(config, store, folder)]
        options = {option: getattr(config, option) for option in _SAME}
        if config.private is not None:
            stack.append(LocalOnly(options.pop("local_only"), private=looks_personal))
        if config.calibrator is not None:
            options["calibrator"] = folder / config.calibrator
        pair = ("small", "large") if len(config.tiers) == 2 else ()
        tiers = [tier.open(folder, *pair[n : n + 1]) for n, tier in enumerate(config.tiers)]
        self.cascade = Cascade(tiers=tiers, ledger=store, middleware=stack, name=name, **options)
        self.own_price.cascade = self.cascade
        turns = [turn.model_dump() for turn in config.prompt]
        self.prompt = to_messages(turns) if turns else []
        self.prompt_size = sum(len(turn.content) for turn in config.prompt)
        self.places = asyncio.Semaphore(config.concurrency)

    def prompted(self, messages: list[AnyMessage]) -> list[AnyMessage]:
        """A conversation after the prompt of the configuration, where it has none of its own."""
        own = not self.prompt or any(message.type == "system" for message in messages)
        return messages if own else [*self.prompt, *messages]

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
        url = "memory://" if kept is None else kept
        self.store = None if kept is None else open_store(kept)
        self.keys = Keys(url)
        self.money = Money(url)
        self.rates, self.guesses = Rates(), Rates()
        self.ways: deque[Way] = deque(maxlen=RECENT)
        self._metrics = tuple(metrics)
        self._owners: dict[str, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.served: dict[str, Served] = {}
        self._versions = _versions(configured)
        self.served = self._build(configured, self._versions)

    # --- who asks

    async def key_of(
        self, request: Request, *, admin: bool = False, page: bool = False
    ) -> Key | None:
        """The key of a request; None where the service asks for none. Of a `page` it may be a
        password, which browsers send by themselves, also where another site's page asks.

        Raises:
            ServiceError: 401, it has no valid key; 403, an admin key is needed; 429, too many wrong
                ones came from its address.
        """
        if not self.config.auth:
            return None
        secret = _secret(request, page=page)
        host = address_of(request.client.host) if request.client else ""
        guess, wrong = self.keys.is_guess(secret), False
        if guess and (wait_s := self.guesses.take(host, WRONG_PER_MINUTE, WRONG_AT_ONCE)):
            said = f"too many wrong API keys came from your address: wait {wait_s} s."
            raise too_many(said, "too_many_wrong_keys", wait_s)
        try:
            key = await self.keys.find(secret)
            wrong = key is None
        finally:
            if guess and not wrong:
                self.guesses.give_back(host)
        if key is None:
            said = "no valid API key: send Authorization: Bearer csk_…, of `cascade keys create`."
            challenge = {"WWW-Authenticate": "Bearer"}
            raise ServiceError(401, said, "invalid_api_key", headers=challenge)
        if admin and not key.admin:
            said = "this needs an admin key: `cascade keys create … --admin` makes one."
            raise ServiceError(403, said, "admin_key_needed")
        return key

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

    async def ask(self, question: Question, key: Key | None, tell: Tell | None = None) -> Outcome:
        """Run a cascade once, in a place of its own, with its money put aside.

        Raises:
            ServiceError: it is not admitted.
            CascadeError: no tier could answer.
        """
        served, settings = question.served, question.settings
        rate = None if key is None else key.per_minute
        if key and rate and (wait_s := self.rates.take(key.id, rate)):
            said = f"this key may ask {rate:g} times a minute: wait {wait_s} s."
            raise too_many(said, "rate_limit_exceeded", wait_s)
        tags = {**served.config.tags, **settings.get("tags", {})}
        tags |= {**key.tags, KEY_TAG: key.id} if key else {}
        settings["tags"] = {**tags, CASCADE_TAG: served.name}
        deadlines = (served.config.deadline, settings.get("deadline"))
        settings["deadline"] = min(filter(None, deadlines), default=None)
        if question.price_of_error is not None:
            served.own_price.policy(question.price_of_error)  # an error where it cannot be had
        run: Run | None = None
        reservation: Reservation | None = None
        served.busy += 1
        try:
            if key and key.limits:
                most, size = settings.get("max_tokens"), question.size + served.prompt_size
                unknown = self.config.budgets.unknown_call_usd
                usd = estimate(served.cascade, size, most, unknown)
                reservation = await self.money.put_aside(key, usd)
            async with _place(question):
                settings["deadline"] = question.left_s()
                messages = served.prompted(question.messages)
                run = served.cascade.kernel.begin(messages, settings)
                if question.price_of_error is not None:
                    run.notes[OwnPrice.name] = question.price_of_error
                if reservation is not None:
                    self._owners[run.id] = reservation.key
                    if len(self._owners) > MOST_OWNERS:
                        del self._owners[next(iter(self._owners))]
                return await self._run(served, run, key, tell)
        finally:
            served.busy -= 1
            if reservation is not None:
                self.money.settle(reservation, self._counted(run.entries if run else []))

    async def _run(self, served: Served, run: Run, key: Key | None, tell: Tell | None) -> Outcome:
        way = Way(run.id, served.name, key.name if key else "")
        runtime = CascadeRuntime(served.cascade.kernel, show="final")
        if tell is not None:

            def emit(event: Event) -> None:
                if isinstance(event, Decided):
                    _decided(way, event, served)
                tell(way, event)

            runtime.emit, runtime.streams, runtime.show = emit, True, "verified"
        begun, ledger = time.perf_counter(), None
        try:
            result = await served.cascade.adrive(run, runtime)
        except BaseException as error:
            left = isinstance(error, asyncio.CancelledError)
            way.error = way.error or ("the client left" if left else kind_of(error))
            logger.debug("run %s: %s", run.id, error)
            raise
        else:
            way.tier = "" if result.abstained else result.tier
            way.model = served.model_of(result.tier)
            way.escalated, way.degraded = result.escalated, result.degraded
            way.confidence, way.calibrated = result.confidence, result.calibrated
            ledger = result.ledger
            way.reason = plain_reason(result.decision.reason, failures(ledger))
        finally:
            way.end(ledger or LedgerView(run.entries), begun)
            self._finished(way)
        return Outcome(result, None if result.abstained else run.draft, way)

    def _finished(self, way: Way) -> None:
        """Tell the log and the page how a run ended."""
        self.ways.append(way)
        level = logging.WARNING if way.error or way.degraded else logging.INFO
        if not logger.isEnabledFor(level):
            return
        cost = "?" if way.cost_usd is None else f"${short(way.cost_usd)}"
        ended = f"failed: {way.error}" if way.error else f"answered by {way.tier or 'none'}"
        told = f"{way.name}: run {way.run_id} {ended} ({way.reason or 'no decision'}); {cost}"
        facts = {**way.facts(), "key": way.key, "seconds": way.seconds, "error": way.error}
        logger.log(level, "%s, %.0f ms", told, 1000 * way.seconds, extra={"run": facts})

    def _charge(self, entry: LedgerEntry) -> None:
        """Charge what background work costs to the key of its run."""
        key_id = self._owners.get(entry.run_id)
        if entry.node in BACKGROUND and key_id and self.loop is not None:
            self.loop.call_soon_threadsafe(self.money.charge, key_id, self._counted([entry]))

    def _counted(self, entries: list[LedgerEntry]) -> Decimal:
        """Dollars that entries count for budgets."""
        return known_cost(entries, self.config.budgets.unknown_call_usd)

    # --- life

    async def open(self) -> None:
        """Connect to the ledger before the first requests need it; it may also come later."""
        self.loop = asyncio.get_running_loop()
        why = None if self.store is None else await self.store.ready()
        if why is not None:
            logger.error("the ledger cannot be written yet: %s", why)
        elif self.config.auth and all(key.revoked_at for key in await self.keys.list()):
            told = "there is no valid key yet: `cascade keys create %s NAME` makes one"
            logger.warning(told, self.configured.path)
        self.start(self._watch())
        self.start(self._warm())

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something beside the requests; it is stopped at the end."""
        self._tasks.add(task := asyncio.ensure_future(work))
        task.add_done_callback(self._tasks.discard)

    async def _warm(self) -> None:
        """Open connections and load weights before the first requests need them."""
        for name, served in list(self.served.items()):
            for tier in served.cascade.tiers:
                try:
                    await tier.model.warm()
                except Exception as error:  # noqa: BLE001 - one that is not warm answers as well
                    logger.warning("%s: %s is not ready yet: %s", name, tier.name, error)

    async def _watch(self) -> None:
        """Load the configuration again when its file or a calibration changes."""
        while True:
            await asyncio.sleep(WATCH_S)
            if _versions(self.configured) != self._versions:
                await self.reload()

    async def reload(self) -> dict[str, list[str]]:
        """Read the configuration again and run what has changed.

        Returns:
            `changed`: keys that are in force now; `needs_restart`: keys that changed and are not;
            `problems`: why all of it stays as it was.
        """
        old = self.config
        try:
            configured = await asyncio.to_thread(self.configured.again)
            new = configured.config
            waits = [key for key in RESTART if getattr(new, key) != getattr(old, key)]
            new = new.model_copy(update={key: getattr(old, key) for key in waits})
            configured = replace(configured, config=new)
            versions = _versions(configured)
            served = self._build(configured, versions)
        except CascadeError as error:
            self._versions = _versions(self.configured)
            logger.error("the configuration is not loaded: %s", error)
            return {"changed": [], "needs_restart": [], "problems": str(error).splitlines()}
        gone = self.served
        names = sorted({*served, *gone})
        changed = [f"cascades.{n}" for n in names if served.get(n) is not gone.get(n)]
        others = [name for name in ServiceConfig.model_fields if name != "cascades"]
        changed += [name for name in others if getattr(new, name) != getattr(old, name)]
        self.served, self._versions = served, versions
        self.config, self.configured = new, configured
        for each in gone.values():
            if each not in served.values():
                self.start(_retire(each))
        logger.info("configuration loaded again; changed: %s", ", ".join(changed) or "nothing")
        return {"changed": changed, "needs_restart": waits, "problems": []}

    def _build(
        self, configured: Configured, versions: Mapping[str, float | None]
    ) -> dict[str, Served]:
        """The cascades of a configuration; those that have not changed, as they are."""
        served, problems = dict[str, Served](), list[str]()
        for name, given in configured.config.cascades.items():
            known, version = self.served.get(name), versions.get(given.calibrator or "")
            if known is not None and (known.config, known.version) == (given, version):
                served[name] = known
                continue
            try:
                made = Served(name, given, configured.path.parent, self.store, self._metrics)
            except CascadeError as error:
                problems += [f"cascades.{name}: {line}" for line in str(error).splitlines()]
            else:
                made.cascade.kernel.ledger.listeners.append(self._charge)
                served[name], made.version = made, version
        if problems:
            raise ConfigurationError("\n".join(problems))
        return served

    async def aclose(self) -> None:
        """Finish audits, write what waits, and disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for served in self.served.values():
            await served.cascade.aclose()
        await self.money.aclose()
        await self.keys.aclose()
        if self.store is not None:
            try:
                await self.store.aclose()
            except LedgerError as error:
                logger.error("the ledger was not written to its end: %s", error)


def _secret(request: Request, *, page: bool) -> str:
    """The API key that a request has: as a token, as a browser's password, or as Anthropic's."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if page and scheme.lower() == "basic":
        with suppress(ValueError):
            return b64decode(given + "==").decode("utf-8", "replace").partition(":")[2]
    return request.headers.get("x-api-key", "")


@asynccontextmanager
async def _place(question: Question) -> AsyncIterator[None]:
    """One of the places of a cascade, after a wait for it."""
    served, patience_s = question.served, min(PATIENCE_S, question.left_s() or PATIENCE_S)
    try:
        async with asyncio.timeout(patience_s):
            await served.places.acquire()
    except TimeoutError:
        said = f"{served.name} is busy: no place became free in {patience_s:.3g} s; try again."
        raise too_many(said, "too_many_requests", 1) from None
    try:
        yield
    finally:
        served.places.release()


async def _retire(served: Served) -> None:
    """Close a cascade that nobody asks any more, after its last request."""
    try:
        while served.busy:  # noqa: ASYNC110 - seconds do not matter
            await asyncio.sleep(0.1)
    finally:
        await served.cascade.aclose()


def _versions(configured: Configured) -> dict[str, float | None]:
    """The times of the last changes of a configuration and its calibrations, by their names."""
    cascades = configured.config.cascades.values()
    found = dict[str, float | None]()
    for name in (configured.path.name, *(c.calibrator for c in cascades if c.calibrator)):
        try:
            found[name] = (configured.path.parent / name).stat().st_mtime
        except OSError:
            found[name] = None
    return found


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


_SAME = (
    *("price_of_error", "max_harm", "escalation_budget", "threshold"),
    *("deadline", "response_format", "local_only", "signals"),
)
"""Options that a cascade takes as they stand in its configuration."""


def _middleware(
    config: CascadeConfig, store: LedgerStore | None, folder: Path
) -> list[CascadeMiddleware]:
    stack: list[CascadeMiddleware] = [ready.Retries(config.retries), ready.Breaker(config.breaker)]
    if config.abort:
        stack.append(ready.Abort() if config.abort is True else ready.Abort(config.abort))
    if config.sticky:
        stack.append(ready.Sticky())
    if config.tool_risks is not None:
        stack.append(ready.ToolRisks(config.tool_risks))
    if config.fallback is not None:
        stack.append(ready.Fallback(config.fallback.open(folder)))
    if config.mode != "live":
        stack.append(ready.Shadow(config.canary_share if config.mode == "canary" else 0.0))
    if config.drift is not None:
        stack.append(ready.Drift(config.drift))
    if (audits := config.audits) is not None:
        if store is None:
            raise ConfigurationError("audits need a ledger, their place: set ledger.")
        judge = None if audits.judge is None else audits.judge.open(folder)
        daily_usd, compare = audits.daily_usd, audits.compare
        stack.append(ready.Audits(audits.rate, daily_usd=daily_usd, compare=compare, judge=judge))
    return stack
