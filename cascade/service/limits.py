"""Limits of requests: per minute, and in dollars."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from decimal import Decimal

from cascade.api import Cascade
from cascade.ledger.shared import Account, Budgets, Refusal, Reservation
from cascade.service.faults import ServiceError
from cascade.service.keys import Key
from cascade.state import Usage

logger = logging.getLogger("cascade")

CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS, FILE_CHARACTERS = 3, 64, 4_500
"""Fewer characters than in usual text, what providers put around a prompt, and what an image or a
file counts, so that more is put aside than is spent."""

ANSWER_TOKENS = 1024
"""Tokens of an answer for which money is put aside where nothing limits it."""

PATIENCE_S, POLL_S = 10.0, 0.1
"""Longest wait for money that requests under way have put aside, and seconds between two looks."""

MOST_NAMES = 10_000


class Rates:
    """Requests per minute by name, as buckets that fill evenly; each process counts for itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, per_minute: float, at_once: float | None = None) -> int:
        """Count a request; the seconds to wait where there were too many, else 0."""
        now, most = self._clock(), max(1.0, at_once or per_minute)
        left, at = self._left.pop(name, (most, now))
        left = min(most, left + (now - at) * per_minute / 60)
        taken = left >= 1
        self._left[name] = (left - taken, now)
        if len(self._left) > MOST_NAMES:
            self._left.popitem(last=False)
        return 0 if taken else math.ceil((1 - left) * 60 / per_minute)

    def give_back(self, name: str) -> None:
        """Take one request back, and none before it."""
        left, at = self._left.get(name, (0.0, self._clock()))
        self._left[name] = (left + 1, at)


class Money:
    """Dollars of keys: put aside before a request runs, counted when it has ended. All processes on
    one database share them."""

    def __init__(self, url: str) -> None:
        self._budgets = Budgets(url)

    async def put_aside(self, key: Key, usd: Decimal) -> Reservation:
        """Put dollars aside; waits for those that requests under way have put aside.

        Raises:
            ServiceError: the budget does not cover it: 402 where it is spent, 429 where it is only
                put aside.
        """
        until = time.monotonic() + PATIENCE_S
        while isinstance(answer := await self._budgets.reserve(key.id, usd, key.limits), Refusal):
            if answer.why == "spent" or time.monotonic() >= until:
                raise _refused(answer)
            await asyncio.sleep(POLL_S)
        return answer

    def settle(self, reservation: Reservation, usd: Decimal) -> None:
        """Count what a request has cost and release the rest, without a wait for the database."""
        self._budgets.settle(reservation, usd).add_done_callback(_counted)

    def charge(self, key_id: str, usd: Decimal) -> None:
        """Count dollars of background work, such as an audit, without a wait."""
        if usd > 0:
            self._budgets.charge(key_id, usd).add_done_callback(_counted)

    async def account(self, key_id: str) -> Account:
        """Account of a key."""
        return await self._budgets.account(key_id)

    async def aclose(self) -> None:
        """Count what is left to be counted, and disconnect."""
        await self._budgets.aclose()


def _counted(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        logger.error("a budget could not be counted: %s", error)


def _refused(refusal: Refusal) -> ServiceError:
    account, window = refusal.account, refusal.window
    spent, aside = account.spent_usd(window), account.put_aside_usd
    said = (
        f"of ${refusal.limit_usd:f} for the {window}, ${short(spent)} is spent and "
        f"${short(aside)} put aside for requests under way; this one may cost ${short(refusal.usd)}"
    )
    if refusal.why == "put_aside":
        told = f"the budget of this key is put aside: {said}. Try again in a moment."
        return too_many(told, "budget_put_aside", 1)
    return ServiceError(
        402,
        f"the budget of this key does not cover the request: {said}. The next {window} begins at "
        f"{refusal.renews_at:%Y-%m-%d} 00:00 UTC.",
        "budget_exhausted",
    )


def too_many(said: str, code: str, wait_s: int) -> ServiceError:
    """The refusal of a request that may come again later."""
    return ServiceError(429, said, code, headers={"Retry-After": str(wait_s)})


def short(usd: Decimal) -> str:
    """An amount for people: to the cent, and four digits beyond the leading zeros."""
    if usd == 0:
        return "0"
    return f"{round(usd, max(2, 3 - usd.adjusted())):f}".rstrip("0").rstrip(".")


def estimate(cascade: Cascade, size: int, max_tokens: int | None, unknown_usd: Decimal) -> Decimal:
    """Dollars that one run may cost: every tier is asked, and every signal taken.

    Args:
        cascade: that runs.
        size: characters of the prompt, with tools and schema.
        max_tokens: limit of the answer, where the request has one.
        unknown_usd: counted for a call whose cost is unknown.
    """
    tokens, total = size // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS, Decimal(0)
    drafts = len(cascade.tiers) - 1
    calls = 1 + sum(signal.calls for signal in cascade.kernel.parts.signals)
    for number, tier in enumerate(cascade.tiers):
        most = max_tokens or tier.max_tokens or ANSWER_TOKENS
        cost = tier.pricing.cost(Usage(input_tokens=tokens, output_tokens=most))
        total += (unknown_usd if cost is None else cost) * (calls if number < drafts else 1)
    return total
