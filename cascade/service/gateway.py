"""Gateway: cascades with keys, budgets and places, and the one way of a request through them. A
protocol turns its request into messages and settings, and the `Reply` back into its own form."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache, partial
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.routing import APIRoute
from langchain_core.messages import AnyMessage
from pydantic import BaseModel, Field, Json
from typing_extensions import override

from cascade import middleware as ready
from cascade.api import Cascade, choose_policy
from cascade.errors import CascadeError, ConfigurationError, LedgerError
from cascade.events import Decided, Event, Token
from cascade.ledger.entries import LedgerEntry, LedgerView, failures, plain_reason
from cascade.ledger.ledger import BACKGROUND
from cascade.ledger.shared import Budgets
from cascade.ledger.store import open_store
from cascade.middleware.base import CascadeMiddleware, Decide, Slot
from cascade.middleware.local_only import LocalOnly, looks_personal
from cascade.models import Model
from cascade.policies.base import Policy, Situation
from cascade.questions import to_messages
from cascade.run import CascadeRuntime, Run, Settings, Show, known_cost
from cascade.service.config import LOOPBACK, RESTART, CascadeConfig, Configured, read_config
from cascade.service.faults import ServiceError, client_left, kind_of
from cascade.service.keys import CASCADE_TAG, KEY_TAG, Key, Keys, Rates, Tags, dollars, put_aside
from cascade.state import Completion, Decision, Usage

logger = logging.getLogger("cascade")

Tell = Callable[[Event], None]

WATCH_S, PATIENCE_S = 2.0, 30.0
"""Seconds between two looks at the files, and the longest wait of a request for a place."""

RECENT, MOST_OWNERS = 500, 10_000
"""Finished requests that the page can show, and runs whose key is remembered."""

CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS, ANSWER_TOKENS = 3, 64, 1024
"""Characters of a token, fewer than in usual text, tokens that providers put around a prompt, and
those of an answer that nothing limits: so that more is put aside than is spent."""


class Wishes(BaseModel, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True):
    """Extension `cascade` of a body; each is also a header `X-Cascade-…`, which goes over it."""

    price_of_error: float | None = Field(default=None, gt=0)
    """Dollars that a wrong answer costs; escalation is weighed against it."""
    deadline: float | None = Field(default=None, ge=0.1)
    """Seconds from the arrival of the request to its answer."""
    local_only: bool | Literal["answer", "abstain"] = False
    """Stay on this machine; `abstain` gives no answer where no tier here is good enough."""
    tags: Tags | Json[Tags] = Field(default_factory=dict)
    """Tags of the ledger entries of this request; as a header in JSON."""


@dataclass(slots=True)
class Way:
    """Way of one request, for its answer, the log and the page: the tier that answered, empty where
    none did, and the reason or the failure in words that name no server. None: not known (yet)."""

    run_id: str
    name: str
    key: str = ""
    at: datetime = field(default_factory=partial(datetime.now, UTC))
    tier: str = ""
    model: str = ""
    action: str = ""
    reason: str = ""
    escalated: bool | None = None
    degraded: bool = False
    confidence: float | None = None
    calibrated: bool | None = None
    cost_usd: Decimal | None = None
    cost_basis: str = ""
    saved_usd: Decimal | None = None
    saved_basis: str = ""
    seconds: float = 0.0
    error: str = ""
    entries: Sequence[LedgerEntry] = ()

    def facts(self) -> dict[str, Any]:
        """The facts that answers and the log state."""
        left_out = ("key", "at", "seconds", "error", "entries")
        return {name: getattr(self, name) for name in self.__slots__ if name not in left_out}

    def headers(self) -> dict[str, str]:
        """The facts in headers of an answer; what is not known is left out."""
        known = {name: v for name, v in self.facts().items() if v not in (None, "")}
        return {f"x-cascade-{n.replace('_', '-')}": header(value) for n, value in known.items()}

    def note(self, run: Run, tier: str, models: Mapping[str, str]) -> None:
        """Note what was decided so far, and which tier answers, of those with their models."""
        if (decision := run.decision) is not None:
            self.action = decision.action
            self.reason = plain_reason(decision.reason, failures(run.entries))
            judged = run.assessment or decision
            self.confidence, self.calibrated = judged.confidence, judged.calibrated
        self.tier, self.model, self.degraded = tier, models.get(tier, ""), run.degraded
        self.escalated = tier != next(iter(models)) if tier else None


_PLAIN = str.maketrans({"≥": ">=", "≤": "<=", "–": "-", "−": "-", "→": "->", "·": "*", "…": "..."})


def name_of(model: Model) -> str:
    """The name of a model, as clients are told: of a file without its folder."""
    path = Path(model.model)
    return f"{model.provider}:{path.name}" if path.is_absolute() else model.name


def header(value: str | float | Decimal) -> str:
    """The value of a header: one line of visible ASCII characters."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return f"{value:f}" if isinstance(value, Decimal) else f"{value:.4f}"
    if value.isascii() and value.isprintable():
        return value[:400]
    return re.sub("[^ -~]", " ", value[:400].translate(_PLAIN))


@dataclass(slots=True)
class Reply:
    """A finished run: the answer, or the words for why there is none on purpose. Tokens are those
    of the answering completion: rejected drafts and checks have other prices, stand in the ledger,
    and are no part of the client's context."""

    way: Way
    completion: Completion
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The answer, or the refusal."""
        return self.refusal or self.completion.text

    @property
    def finish_reason(self) -> str:
        """Reason why the answer ended, in OpenAI's words."""
        if self.completion.tool_calls:
            return "tool_calls"
        reason = self.completion.finish_reason
        return reason if reason in ("length", "content_filter") else "stop"


class OwnPrice(CascadeMiddleware):
    """Decides by a request's own price of an error, in place of the cascade's policy."""

    name = "own_price"  # it stands within all other middleware of its slot
    slot = Slot.ANSWERS
    policy: Callable[[float], Policy]  # that of its cascade by this price

    @override
    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        usd: Any = run.notes.get(self.name)
        return handler(situation) if usd is None else self.policy(usd).decide(situation)


class Served:
    """A cascade under its name; a changed one takes the place of the old for new requests."""

    def __init__(
        self, name: str, config: CascadeConfig, version: float | None, gateway: Gateway
    ) -> None:
        self.name, self.config, self.version, self.busy = name, config, version, 0
        self.own_price, folder = OwnPrice(), gateway.config.path.parent
        stack = [self.own_price, *gateway.metrics, *_middleware(config, gateway)]
        same = ("price_of_error", "max_harm", "escalation_budget", "threshold", "deadline")
        names = (*same, "response_format", "local_only", "signals")
        options: dict[str, Any] = {"name": name, **{n: getattr(config, n) for n in names}}
        if config.private is not None:
            stack.append(LocalOnly(options.pop("local_only"), private=looks_personal))
        if config.calibrator is not None:
            options["calibrator"] = folder / config.calibrator
        tiers = [tier.open(folder) for tier in config.tiers]
        options |= {"small": tiers[0], "large": tiers[1]} if len(tiers) == 2 else {"tiers": tiers}
        self.cascade = Cascade(middleware=stack, ledger=gateway.store, **options)
        self.cascade.kernel.ledger.listeners.append(gateway.charge)
        beside = [each.tier for each in stack if isinstance(each, ready.Fallback)]
        self.models = {tier.name: name_of(tier.model) for tier in [*self.cascade.tiers, *beside]}
        policy = partial(choose_policy, self.cascade.tiers, self.cascade.calibration)
        self.own_price.policy = lru_cache(256)(lambda usd: policy(price_of_error=usd))
        turns = [turn.model_dump() for turn in config.prompt]
        self.prompt = to_messages(turns) if turns else []
        self.prompt_size = sum(len(turn.content) for turn in config.prompt)
        self.places = asyncio.Semaphore(config.concurrency)

    def begin(
        self, messages: list[AnyMessage], settings: Settings, wishes: Wishes, key: Key | None
    ) -> Run:
        """A run as a request and its key want it, with our prompt where it has none of its own."""
        of_key = {**key.tags, KEY_TAG: key.id} if key else {}
        settings["tags"] = {**self.config.tags, **wishes.tags, **of_key, CASCADE_TAG: self.name}
        deadlines = filter(None, (self.config.deadline, wishes.deadline))
        settings["deadline"] = min(deadlines, default=None)
        if wishes.local_only:
            settings["local_only"] = wishes.local_only
        if self.prompt and all(message.type != "system" for message in messages):
            messages = [*self.prompt, *messages]
        run = self.cascade.kernel.begin(messages, settings)
        if (usd := wishes.price_of_error) is not None:
            self.own_price.policy(usd)  # an error where it cannot be had
            run.notes[OwnPrice.name] = usd
        return run

    def estimate(self, size: int, max_tokens: int | None, unknown_usd: Decimal) -> Decimal:
        """Dollars that a run may cost with `size` characters, where every tier is asked, every
        signal taken, and a call of unknown cost counts `unknown_usd`."""
        tokens = (size + self.prompt_size) // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
        calls = 1 + sum(signal.calls for signal in self.cascade.kernel.parts.signals)
        total, last = Decimal(0), self.cascade.tiers[-1]
        for tier in self.cascade.tiers:
            most = max_tokens or tier.max_tokens or ANSWER_TOKENS
            cost = tier.pricing.cost(Usage(input_tokens=tokens, output_tokens=most))
            total += (unknown_usd if cost is None else cost) * (1 if tier is last else calls)
        return total

    async def retire(self) -> None:
        """Close the cascade after its last request, when another has taken its place."""
        try:
            while self.busy:  # noqa: ASYNC110 - seconds do not matter
                await asyncio.sleep(0.1)
        finally:
            await self.cascade.aclose()


class Gateway:
    """All that a service holds; `metrics` are middleware of every cascade."""

    def __init__(self, config: Configured, metrics: Sequence[CascadeMiddleware] = ()) -> None:
        self.config, self.metrics = config, metrics
        place = config.ledger or "memory://"
        self.store = open_store(place) if config.ledger else None
        self.keys, self.money = Keys(place), Budgets(place)
        self.rates, self.ways = Rates(), deque[Way](maxlen=RECENT)
        self._owners: dict[str, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.served, self._seen = dict[str, Served](), _versions(config)
        self.served = self._build(config, self._seen)

    def models(self, key: Key | None) -> list[str]:
        """The models that a key may ask for."""
        allowed = key.models if key else ()
        return [name for name in self.served if not allowed or name in allowed]

    def model(self, name: str, key: Key | None) -> Served:
        """A model by its name; an error where there is none, or it is not for this key."""
        served = self.served.get(name) or self.served.get(name.removesuffix(":latest"))
        if served is None or served.name not in self.models(key):
            there = ", ".join(self.models(key)) or "none"
            said = f"there is no model {name[:100]!r} that may be asked for; there are {there}."
            raise ServiceError(404, said, "model_not_found", param="model")
        return served

    async def ask(
        self,
        served: Served,
        run: Run,
        way: Way,
        size: int,
        key: Key | None,
        tell: Tell | None = None,
    ) -> Reply:
        """Take a run to its end, in a place of its own, with money for its `size` put aside; a
        stream is told what happens.

        Raises:
            ServiceError: it is not admitted.
            CascadeError: no tier could answer.
        """
        if key and key.per_minute and (wait_s := self.rates.take(key.id, key.per_minute)):
            said = f"this key may ask {key.per_minute:g} times a minute: wait {wait_s} s."
            raise ServiceError(429, said, "rate_limit_exceeded", retry_after=wait_s)
        unknown_usd, reservation = self.config.unknown_call_usd, None
        patience_s = min(PATIENCE_S, run.settings.get("deadline") or PATIENCE_S)
        served.busy += 1
        try:
            if key and key.limits:
                usd = served.estimate(size, run.settings.get("max_tokens"), unknown_usd)
                reservation = await put_aside(self.money, key, usd)
                self._owners[run.id] = key.id
                if len(self._owners) > MOST_OWNERS:
                    del self._owners[next(iter(self._owners))]
            waits_s = patience_s if served.places.locked() else None
            async with asyncio.timeout(waits_s) as wait, served.places:
                wait.reschedule(None)
                return await self._run(served, run, way, tell)
        except TimeoutError:
            said = f"{served.name} is busy: no place was free in {patience_s:.3g} s; try again."
            raise ServiceError(429, said, "too_many_requests", retry_after=1) from None
        finally:
            served.busy -= 1
            if reservation is not None:
                self.money.settle(reservation, known_cost(run.entries, unknown_usd))

    async def _run(self, served: Served, run: Run, way: Way, tell: Tell | None) -> Reply:
        def emit(event: Event) -> None:
            tier = event.tier if isinstance(event, Token) else way.tier
            if isinstance(event, Decided) or tier != way.tier:
                way.note(run, tier, served.models)
            if tell is not None:
                tell(event)

        show: Show = "verified" if tell else "final"
        runtime = CascadeRuntime(served.cascade.kernel, emit, show, streams=tell is not None)
        begun = time.perf_counter()
        try:
            result = await served.cascade.adrive(run, runtime)
            way.note(run, "" if result.abstained else result.tier, served.models)
            way.escalated = result.escalated
        except BaseException as error:
            way.note(run, way.tier, served.models)
            way.error = way.error or ("the client left" if client_left(error) else kind_of(error))
            raise
        finally:
            way.seconds = time.perf_counter() - begun
            self._finished(way, LedgerView(run.entries))
        refusal = f"No answer: {way.reason}." if result.abstained else None
        return Reply(way, run.answer or Completion("", ""), refusal)

    def _finished(self, way: Way, ledger: LedgerView) -> None:
        """Tell the log and the page how a run ended, what it cost and what it saved."""
        way.entries = ledger.entries
        way.cost_usd, way.cost_basis = ledger.cost_usd, ledger.cost_basis
        way.saved_usd, way.saved_basis = ledger.saved_usd, ledger.saved_basis
        if way.error:
            way.reason = "; ".join(failures(ledger)) or way.reason or way.error
        self.ways.append(way)
        for said in {e.tier: e.note for e in way.entries if e.outcome == "failed"}.values():
            logger.warning("run %s: %s", way.run_id, said)  # answers tell only that it failed
        ended = f"failed: {way.error}" if way.error else f"answered by {way.tier or 'none'}"
        told = f"{way.name}: run {way.run_id} {ended} ({way.reason or 'no decision'})"
        facts = {**way.facts(), "key": way.key, "seconds": way.seconds, "error": way.error}
        level = logging.WARNING if way.error or way.degraded else logging.INFO
        took, cost = 1000 * way.seconds, dollars(way.cost_usd)
        logger.log(level, "%s; %s, %.0f ms", told, cost, took, extra={"run": facts})

    def charge(self, entry: LedgerEntry) -> None:
        """Charge what background work costs to the key of its run."""
        key_id = self._owners.get(entry.run_id)
        usd = known_cost([entry], self.config.unknown_call_usd)
        if entry.node in BACKGROUND and key_id and usd:
            self.money.charge(key_id, usd)

    async def __aenter__(self) -> None:
        """Connect to the ledger before the first requests need it; it may also come later."""
        self.loop = asyncio.get_running_loop()
        if self.store is not None and (why := await self.store.ready()) is not None:
            logger.error("the ledger cannot be written yet: %s", why)
        self.start(self._watch())

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Begin work beside the requests, which is stopped at the end."""
        self._tasks.add(task := asyncio.ensure_future(work))
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        """Load weights before the first requests need them, then look out for changes."""
        for tier in [tier for served in self.served.values() for tier in served.cascade.tiers]:
            try:
                await tier.model.warm()
            except CascadeError as error:
                logger.warning("%s is not ready yet: %s", tier.model.name, error)
        while True:
            await asyncio.sleep(WATCH_S)
            if _versions(self.config) != self._seen:
                await self.reload()

    async def reload(self) -> dict[str, list[str]]:
        """Read the configuration again and run what has `changed`; keys that changed and are not in
        force `needs_restart`, and `problems` say why all of it stays as it was."""
        self._seen = _versions(self.config)
        old, gone = dict(self.config), self.served
        try:
            path, overrides = self.config.path, self.config.overrides
            new = await asyncio.to_thread(read_config, path, overrides=overrides)
            others = [key for key, value in new if value != old[key]]
            waits = [key for key in RESTART if key in others]
            new = new.model_copy(update={key: old[key] for key in waits})
            served = self._build(new, seen := _versions(new))
        except CascadeError as error:
            logger.error("the configuration is not loaded: %s", error)
            return {"changed": [], "needs_restart": [], "problems": str(error).splitlines()}
        names = sorted({*served, *gone})
        changed = [f"cascades.{n}" for n in names if served.get(n) is not gone.get(n)]
        changed += [key for key in others if key not in ("cascades", *waits)]
        self.config, self.served, self._seen = new, served, seen
        for each in gone.values():
            if each not in served.values():
                self.start(each.retire())
        logger.info("configuration loaded again; changed: %s", ", ".join(changed) or "nothing")
        return {"changed": changed, "needs_restart": waits, "problems": []}

    def _build(self, config: Configured, seen: Mapping[str | None, float]) -> dict[str, Served]:
        """The cascades of a configuration; those that have not changed, as they are."""
        served, problems = dict[str, Served](), list[str]()
        for name, given in config.cascades.items():
            known, version = self.served.get(name), seen.get(given.calibrator)
            try:
                if known is None or (known.config, known.version) != (given, version):
                    known = Served(name, given, version, self)
                served[name] = known
            except CascadeError as error:
                problems += [f"cascades.{name}: {line}" for line in str(error).splitlines()]
        if problems:
            raise ConfigurationError("\n".join(problems))
        return served

    async def __aexit__(self, *_: object) -> None:
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


class Route(APIRoute):
    """A route whose function takes the request and parts of its path, past FastAPI's reading.

    Without keys every program on this machine may ask, and so might every web page that its browser
    shows: a page's `Origin` gives it away, and a foreign name that its DNS points here (rebinding)
    its `Host`.
    """

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Any:
            if not request.app.state.gateway.config.auth:
                host, origin = request.headers.get("host", ""), request.headers.get("origin")
                ours = re.fullmatch(r"(127\.0\.0\.1|\[::1\]|localhost)(:\d+)?", host, re.IGNORECASE)
                if not ours or (origin is not None and origin.partition("://")[2] != host):
                    said = f"{', '.join(LOOPBACK)} and their own pages, not {origin or host!r:.80}"
                    raise ServiceError(403, f"without keys it answers {said}.", "foreign_site")
            return await self.endpoint(request, **request.path_params)

        return handle


async def asked_by(
    request: Request, *, admin: bool = False, page: bool = False
) -> tuple[Gateway, Key | None]:
    """The gateway that a request came to, and its key, None where the service asks for none. Of a
    `page` it may be a password, which browsers send by themselves, also where another site asks.

    Raises:
        ServiceError: no valid key, no admin's, or too many wrong ones came from its address.
    """
    gateway: Gateway = request.app.state.gateway
    if not gateway.config.auth:
        return gateway, None
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    secret = request.headers.get("x-api-key", "")  # Anthropic's
    if scheme.lower() == "bearer":
        secret = given.strip()
    elif page and scheme.lower() == "basic":
        with suppress(ValueError):
            secret = b64decode(given + "==").decode("utf-8", "replace").partition(":")[2]
    key = await gateway.keys.find(secret, address_of(request))
    if key is None:
        said = "no valid API key: send Authorization: Bearer csk_..., of `cascade keys create`."
        raise ServiceError(401, said, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
    if admin and not key.admin:
        said = "this needs an admin key: `cascade keys create ... --admin` makes one."
        raise ServiceError(403, said, "admin_key_needed")
    return gateway, key


def address_of(request: Request) -> str:
    """The address that counts for a client: of IPv6 its network, since one line has 2⁶⁴ of them."""
    host = request.client.host if request.client else ""
    if ":" in host:
        with suppress(ValueError):
            address = IPv6Address(host)
            return str(address.ipv4_mapped or ip_network((int(address), 64), strict=False))
    return host


def _versions(config: Configured) -> dict[str | None, float]:
    """The times of the last changes of a configuration and its calibrations, by their names."""
    path, found = config.path, dict[str | None, float]()
    calibrators = (each.calibrator for each in config.cascades.values())
    for name in filter(None, (path.name, *calibrators)):
        with suppress(OSError):
            found[name] = (path.parent / name).stat().st_mtime
    return found


def _middleware(config: CascadeConfig, gateway: Gateway) -> Iterator[CascadeMiddleware]:
    folder = gateway.config.path.parent
    yield ready.Retries(config.retries)
    yield ready.Breaker(config.breaker)
    if config.abort:
        yield ready.Abort() if config.abort is True else ready.Abort(config.abort)
    if config.sticky:
        yield ready.Sticky()
    if config.tool_risks is not None:
        yield ready.ToolRisks(config.tool_risks)
    if config.fallback is not None:
        yield ready.Fallback(config.fallback.open(folder))
    if config.mode != "live":
        yield ready.Shadow(config.canary_share if config.mode == "canary" else 0.0)
    if config.drift is not None:
        yield ready.Drift(config.drift)
    if (audits := config.audits) is not None:
        if gateway.store is None:
            raise ConfigurationError("audits need a ledger, their place: set ledger.")
        judge = None if audits.judge is None else audits.judge.open(folder)
        daily_usd, compare = audits.daily_usd, audits.compare
        yield ready.Audits(audits.rate, daily_usd=daily_usd, compare=compare, judge=judge)
