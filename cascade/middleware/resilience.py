"""Failures and deadlines: a failed call is sent again, within a budget; a server that fails is left
alone; another model stands in for the last tier; and no run takes longer than it is allowed."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from dataclasses import dataclass, replace
from threading import Lock

from cascade import errors
from cascade._numbers import to_count, to_number
from cascade.middleware.base import Ask, CascadeMiddleware, Decide, Slot
from cascade.models.base import Model
from cascade.policies.base import Situation
from cascade.run import Call, Parts, Run, to_request
from cascade.state import Completion, Decision
from cascade.tiers import ModelLike, open_tier

logger = logging.getLogger("cascade")

MAX_WAIT_S, MAX_DRAWN_S = 60.0, 8.0
"""A provider that asks to wait longer is treated as down; most seconds of a drawn wait."""

REMEMBERED_S = 10.0
"""A call pays for its part of a retry for about so long: after a quiet night, retries of all the
calls of the day before would hammer a server as if there were no budget."""


class Retries(CascadeMiddleware):
    """Retries of what may succeed when it is sent again: a server that fails, a rate limit.

    The wait before attempt n + 1 is drawn from [0, min(8 s, base_s·2ⁿ⁻¹)] ("full jitter"), on top
    of what the provider asks for by `Retry-After`, which is waited for once. A budget for each
    model at its server keeps one that is down from being hammered: in t seconds with n calls there
    are at most share·n + reserve·(1 + t/60) retries. Each attempt has its entry in the ledger.

    Args:
        attempts: of each call, the first included.
        share: retries that each call pays for; `reserve`, allowed besides, each minute.
    """

    slot = Slot.ATTEMPTS

    def __init__(
        self,
        attempts: int = 3,
        *,
        base_s: float = 0.5,
        share: float = 0.2,
        reserve: int = 10,
    ) -> None:
        self.attempts = to_count("Retries.attempts", attempts)
        self.base_s = to_number("Retries.base_s", base_s, least=0)
        self.share = to_number("Retries.share", share, least=0)
        self.reserve = to_count("Retries.reserve", reserve, least=0)
        self._budgets: dict[str, RetryBudget] = {}

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Send the call again while that is worth it."""
        budget = self._budgets.setdefault(call.tier.model.place, RetryBudget(self.reserve))
        budget.add(self.share)
        attempt, waited = 1, False
        while True:
            try:
                return await handler(call)
            except errors.ModelError as error:
                asked_s = error.retry_after or 0.0
                late = asked_s > MAX_WAIT_S or asked_s >= (call.request.timeout_s or math.inf)
                hopeless = not error.retryable or late or (waited and asked_s > 0)
                if hopeless or attempt >= self.attempts or not budget.add(-1.0):
                    raise
                waited = asked_s > 0
            # Outside of the handler: an error that is waited for would keep its frames alive.
            most_s = min(MAX_DRAWN_S, self.base_s * 2.0 ** min(attempt - 1, 60))
            await asyncio.sleep(asked_s + random.uniform(0, most_s))  # noqa: S311 - no secret
            attempt += 1


class RetryBudget:
    """Bucket of retries that each call fills by a share. What is over the reserve runs out, and up
    to the reserve it fills by itself in a minute."""

    def __init__(self, reserve: int) -> None:
        self._left, self._at = float(reserve), time.monotonic()
        self._reserve, self._lock = reserve, Lock()

    def add(self, retries: float) -> bool:
        """Put so many in, or take them out; False where there are too few to take."""
        with self._lock:
            now, over = time.monotonic(), self._left - self._reserve
            passed, self._at = now - self._at, now
            if over > 0:
                self._left = self._reserve + over * math.exp(-passed / REMEMBERED_S)
            else:
                self._left += min(-over, self._reserve * passed / 60)
            if self._left + retries < 0:
                return False
            self._left += retries
            return True


class Breaker(CascadeMiddleware):
    """Circuit breaker: a server is left alone after failures, longer each time one more call fails.

    Counted is what speaks of the server: no listener, 5xx, no answer in time, a broken connection,
    an answer that cannot be read, 429 without `Retry-After`. Where the breaker is open, nothing is
    sent: the draft goes to the next tier, and the expert returns the draft, marked as degraded.

    Args:
        in_a_row: failures one after the other that open it.
        open_s: seconds until one call tries the server again; doubled with each failure of such a
            call, up to `most_open_s`.
    """

    slot = Slot.HEALTH

    def __init__(
        self, in_a_row: int = 5, *, open_s: float = 2.0, most_open_s: float = 15.0
    ) -> None:
        self.in_a_row = to_count("Breaker.in_a_row", in_a_row)
        self.open_s = to_number("Breaker.open_s", open_s, above=0)
        self.most_open_s = to_number("Breaker.most_open_s", most_open_s, least=self.open_s)
        self._circuits: dict[str, Circuit] = {}
        self._lock = Lock()

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Pass the call on while its server is well, else a `CircuitOpenError`."""
        model = call.tier.model
        with self._lock:
            circuit = self._circuits.setdefault(model.place, Circuit())
            now = time.monotonic()
            if now < circuit.until:
                ready_s = min(circuit.pause_s, circuit.until - now)
                raise errors.CircuitOpenError(
                    f"{model.name} was not asked: it has failed too often and is left alone; one "
                    f"call tries it in {ready_s:.1f} s. The last failure {circuit.why}",
                    model=model.name,
                    ready_in_s=ready_s,
                )
            if circuit.pause_s:
                # Where the call that tries it is not heard of for so long, another one may: for
                # more than its time, after which its failure is still under way.
                until = now + max(self.most_open_s, 2 * (call.request.timeout_s or 0.0))
                circuit = self._circuits[model.place] = replace(circuit, until=until)
        failed: bool | None = None
        try:
            completion = await handler(call)
            failed = False
            return completion
        except errors.ModelError as error:
            ours = isinstance(error, errors.NotSentError | errors.DeadlineError)
            waits = isinstance(error, errors.RateLimitError) and error.retry_after is not None
            if isinstance(error, errors.TransientError) and not ours and not waits:
                failed = True
            elif error.status is not None:  # else it was refused here, and the server never saw it
                failed = False
            if failed:
                circuit.why = f"({type(error).__name__}): {error}"
            raise
        finally:
            with self._lock:
                # What was sent before it last changed says nothing about the server now.
                if circuit is self._circuits.get(model.place):
                    self._hear(circuit, failed, model)

    def _hear(self, circuit: Circuit, failed: bool | None, model: Model) -> None:
        """Note how a call ended; None where that says nothing about the server."""
        if failed is None:
            circuit.until = 0.0  # the next call may try it
            return
        circuit.row = circuit.row + 1 if failed else 0
        if circuit.pause_s and not failed:
            self._circuits[model.place] = Circuit()
            logger.info("%s answers again", model.name)
        elif failed and (circuit.pause_s or circuit.row >= self.in_a_row):
            pause_s = min(self.most_open_s, 2 * circuit.pause_s) or self.open_s
            until = time.monotonic() + pause_s
            self._circuits[model.place] = Circuit(pause_s, until, circuit.row, circuit.why)
            told = "%s is left alone for %.1f s: %d calls have failed one after the other"
            logger.warning(told, model.name, pause_s, circuit.row)

    async def aclose(self) -> None:
        """Begin anew: calls that the closing cuts off say nothing about their server."""
        self._circuits.clear()


@dataclass(slots=True)
class Circuit:
    """State of one server's breaker, open while it has a pause: nothing is sent `until` that is
    over, nor while one call tries it. `row` counts failures; `why` is the last one."""

    pause_s: float = 0.0
    until: float = 0.0
    row: int = 0
    why: str = ""


class Fallback(CascadeMiddleware):
    """Another model in place of the last tier when that fails for good.

    The result is marked as degraded. Its entry names the model that answered, and earns at most
    its own cost, as an estimate: an owner of that model would have it without a cascade, too.
    """

    slot = Slot.SUBSTITUTES

    def __init__(self, tier: ModelLike) -> None:
        self.tier = open_tier(tier, self.name)

    def check(self, parts: Parts) -> None:
        """Refuse an agent that would be run on what it, or another, has written."""
        if check := getattr(self.tier.model, "check", None):
            check(parts)

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Ask the last tier, then the other model."""
        try:
            return await handler(call)
        except errors.ModelError as error:
            beyond = isinstance(error, errors.BadRequestError) or not error.circumstantial
            if call.node != "expert" or beyond:
                raise
        request = to_request(self.tier, call.request.messages, call.run.settings)
        return await handler(replace(call, tier=self.tier, request=request))

    async def aclose(self) -> None:
        """Close the other model."""
        await self.tier.model.aclose()


WAY_BACK = 0.02
"""Of the time that a large call may take, kept back for answering without it."""

LATENCY_WEIGHT = 0.2
"""Of the newest call in a tier's expected latency: it follows a change within about ten calls."""

FORGOTTEN_S = 60.0
"""What is expected of a tier that was not asked for so long is tried: it may have been a cold start
that took its time, and where nothing is asked nothing is learned."""


class Deadline(CascadeMiddleware):
    """Deadline of a run, which bounds all its calls, with their retries and waits.

    What would be escalated is accepted where the next tier is known to take longer than that; a
    call that does not end in time fails with `DeadlineError`, and the expert returns the draft,
    marked as degraded. Audits and shadow runs keep no deadline.

    Args:
        seconds: from the beginning of a run to its answer; None for none, until a question brings
            its own (`deadline` of its settings).

    Raises:
        ConfigurationError: the seconds are not above 0.
    """

    slot = Slot.TIME

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = None if seconds is None else to_number("deadline", seconds, above=0)
        self._seen_s, self._asked_at = dict[str, float](), dict[str, float]()

    def left_s(self, run: Run) -> float | None:
        """Seconds until the deadline of a run, negative when it has passed; None without one."""
        seconds = run.settings.get("deadline") or self.seconds
        if seconds is None or run.kind != "answer":
            return None
        # A clock that was set back, here or where the run began, gives no run more time than that.
        return min(seconds, run.begun_at + seconds - time.time())

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Give the call no more time than is left, else a `DeadlineError`."""
        started, left, model = time.perf_counter(), self.left_s(call.run), call.tier.model.name
        name, drafted = call.tier.name, call.node in ("draft", "expert")
        if left is not None:
            if left <= 0:
                raise errors.DeadlineError(
                    f"{model} was not asked: the deadline has passed.", model=model, billed=False
                )
            left *= 1 - WAY_BACK * (call.node == "expert")
            timeout_s = min(left, call.request.timeout_s or left)
            call = replace(call, request=replace(call.request, timeout_s=timeout_s))
        anew = drafted and self._forgotten(name)
        if drafted:
            self._asked_at[name] = started
        limit = asyncio.timeout(left)
        try:
            async with limit:
                completion = await handler(call)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise errors.DeadlineError(
                f"{model} did not answer before the deadline, {left:.2f} s after it was asked.",
                model=model,
                billed=None,
            ) from error
        if drafted and not completion.cached:
            took = time.perf_counter() - started
            before = took if anew else self._seen_s.get(name, took)
            self._seen_s[name] = before + LATENCY_WEIGHT * (took - before)
        return completion

    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        """Accept what would be escalated where the next tier cannot answer in time."""
        decision, left = handler(situation), self.left_s(run)
        settled = situation.assessment.objection is not None or not situation.above
        if left is None or settled or decision.action not in ("escalate", "observe"):
            return decision
        name = decision.tier or situation.above[0].tier
        needed = self._seen_s.get(name, 0.0)
        if left > needed or (left > 0 and self._forgotten(name)):
            return decision
        takes = f" and escalating takes {needed:.2f} s" if needed else ""
        reason = f"{decision.reason}; but {max(0.0, left):.2f} s are left{takes}"
        update = {"action": "accept", "tier": None, "once": True, "reason": reason}
        return decision.model_copy(update=update)

    def _forgotten(self, tier: str) -> bool:
        now = time.perf_counter()
        return now - self._asked_at.get(tier, now) > FORGOTTEN_S
