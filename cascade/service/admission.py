"""Who comes in: the key, its rate, its budget, and a place to run."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from cascade.api import Cascade
from cascade.service.budgets import Reservation, estimate, prompt_size
from cascade.service.faults import ServiceError
from cascade.service.guesses import address_of
from cascade.service.keys import KEY_TAG, RESERVED_TAG, Key
from cascade.service.service import Service, service_of
from cascade.service.serving import CALIBRATION_TAG, CASCADE_TAG, Served


class Admitted:
    """An authenticated request that is within its key's rate.

    Attributes:
        service: whom it came to.
        key: of the request; None with `--no-auth`.
        tags: for the run's ledger entries; they go over tags that the client names. Complete once
            `slot` is entered.
        local_only: whether the run must stay on this machine, since the budget is exhausted.
            Known once `slot` is entered.
    """

    def __init__(self, service: Service, key: Key | None, chars: int = 0) -> None:
        self.service = service
        self.key = key
        self._chars = chars
        self.tags: Mapping[str, str] = {} if key is None else {**key.tags, KEY_TAG: key.id}
        self.local_only = False
        self._reservation = Reservation()

    @asynccontextmanager
    async def slot(
        self,
        model: str,
        *,
        max_tokens: int | None = None,
        runs: int = 1,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Cascade]:
        """A place to run: puts dollars aside, waits in the model's queue, gives the cascade.

        Args:
            model: its public name, as the client gave it.
            max_tokens: the most that may be answered, if the client says so.
            runs: how often the cascade runs for this request (`n`).
            timeout_s: what is left of the request's deadline.

        Raises:
            ServiceError: 404 or 403, no such model for this key; 402, the budget is exhausted;
                429, the queue is full; 503, the service shut down before the request had ended.
        """
        service = self.service
        served = service.serving(model, self.key)
        self.tags = {**self.tags, CASCADE_TAG: served.tag}
        async with service.flights.under_way(served.name):
            if self.key is not None and self.key.budgeted:
                await self._put_aside(self.key, served, max_tokens, runs)
            try:
                async with served.gate.through(timeout_s), served.lease() as cascade:
                    version = served.version_of(cascade)
                    if version is not None:
                        self.tags = {**self.tags, CALIBRATION_TAG: version}
                    yield cascade
            finally:
                self._reservation.close()

    def settle(self) -> None:
        """A run within the slot has ended, also by failing; once for each run.

        What was put aside for it is free again. What it cost was counted entry by entry when it
        arose. What is never settled is released when the slot ends.
        """
        self._reservation.settle()

    async def _put_aside(self, key: Key, served: Served, max_tokens: int | None, runs: int) -> None:
        per_run = estimate(
            served.cascade,
            self.service.config.budgets,
            prompt_chars=self._chars,
            max_tokens=max_tokens,
            answer_tokens=served.config.answer_tokens,
        )
        can_stay = any(tier.local for tier in served.cascade.tiers)
        aside = await self.service.budgets.reserve(key, per_run, runs, can_stay=can_stay)
        self._reservation, self.local_only = aside, aside.local_only
        # Also over tags of the client's.
        self.tags = {**self.tags, RESERVED_TAG: f"{aside.per_run:f}", **aside.tags}


_BEARER = HTTPBearer(auto_error=False, description="`csk_…`, made by `cascade keys create`.")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")


async def authenticated(
    request: Request,
    _bearer: Annotated[object, Security(_BEARER)] = None,  # for the OpenAPI document
    _header: Annotated[object, Security(_HEADER)] = None,
) -> Key | None:
    """The key of a request; None with `--no-auth`.

    Raises:
        ServiceError: 401, no key or a wrong one; 429, too many wrong ones from there.
        UnavailableError: the keys' database cannot be reached.
    """
    service = service_of(request)
    if not service.config.auth:
        return None
    secret = secret_in(request)
    key = None if secret is None else await find_key(request, service, secret)
    if key is None:
        raise ServiceError(
            401,
            "no valid API key: send Authorization: Bearer csk_…, made by `cascade keys create`.",
            "authentication_error",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return key


async def find_key(request: Request, service: Service, secret: str) -> Key | None:
    """The key that this is, if it is one.

    Raises:
        ServiceError: 429, its address has guessed too often; nothing is looked up then.
        UnavailableError: the keys' database cannot be reached.
    """
    if not service.keys.is_guess(secret):
        return await service.keys.find(secret)
    address = address_of(request)
    wait_s = service.guesses.wait_s(address)
    if wait_s is not None:
        raise ServiceError(
            429,
            f"too many wrong API keys came from your address: wait {math.ceil(wait_s)} s. "
            "`cascade keys list` shows which there are.",
            "rate_limit_error",
            "too_many_wrong_keys",
            headers={"Retry-After": str(math.ceil(wait_s))},
        )
    service.guesses.count(address)
    key: Key | None = None
    wrong = False
    try:
        key = await service.keys.find(secret)
        wrong = key is None
    finally:
        if not wrong:
            service.guesses.take_back(address)
    return key


def let_in(service: Service, key: Key | None, chars: int = 0) -> Admitted:
    """Admit a request of a key that is known to be valid.

    Args:
        service: whom it came to.
        key: of the request.
        chars: of its prompt, tools and schema, for the estimate of what it may cost.

    Raises:
        ServiceError: 429, too many requests; 503, shutting down.
    """
    if service.draining:
        raise ServiceError(
            503,
            "the service is shutting down: try again.",
            "server_error",
            "shutting_down",
            headers={"Connection": "close", "Retry-After": "1"},
        )
    wait_s = None if key is None else service.limits.take(key)
    if key is not None and wait_s is not None:
        raise ServiceError(
            429,
            f"this key may ask {key.per_minute:g} times a minute: wait {wait_s:.1f} s.",
            "rate_limit_error",
            "rate_limit_exceeded",
            headers={"Retry-After": str(math.ceil(wait_s))},
        )
    return Admitted(service, key, chars)


async def admitted(
    request: Request, key: Annotated[Key | None, Depends(authenticated)]
) -> Admitted:
    """The dependency behind `Admit`.

    Raises:
        ServiceError: 401, no key or a wrong one; 429, too many requests; 503, shutting down.
        UnavailableError: the keys' database cannot be reached.
    """
    chars = 0
    if key is not None and key.budgeted and request.method == "POST":
        # Read already. Its length in the header is what the client says, and an image's is not
        # that of a text.
        chars = await _size(request)
    return let_in(service_of(request), key, chars)


async def _size(request: Request) -> int:
    try:
        return prompt_size(await request.json())
    except ValueError:  # no JSON: its protocol says so
        return len(await request.body())


def secret_in(request: Request) -> str | None:
    """The key that a request carries: `Authorization: Bearer …` or `X-API-Key`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key") or None


Admit = Annotated[Admitted, Depends(admitted)]
"""`admitted: Admit` in a route."""
