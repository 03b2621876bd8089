"""How a cascade deals with models that fail: the settings, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from cascade.errors import ConfigurationError

__all__ = ["Breaker", "Bulkhead", "Resilience", "Retries", "is_number"]


def _refuse(owner: object, name: str, wanted: str) -> None:
    kind, value = type(owner).__name__, getattr(owner, name)
    raise ConfigurationError(f"{kind}({name}={value!r}): give {wanted}.")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(owner: object, name: str, least: float, *, below: bool = False) -> None:
    """A number of at least `least`, or above it."""
    value = getattr(owner, name)
    if not is_number(value) or value < least or (below and value == least):
        _refuse(owner, name, f"a number {'above' if below else 'of at least'} {least:g}")


def _check_count(owner: object, name: str, least: int) -> None:
    value = getattr(owner, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        _refuse(owner, name, f"a whole number of at least {least}")


@dataclass(frozen=True, slots=True)
class Retries:
    """When a failed call is sent again.

    The wait before attempt n + 1 is drawn from between 0 and min(`cap_s`, `base_s` · 2ⁿ⁻¹): full
    jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"). A provider's `Retry-After` is
    waited for first.

    Retries have a budget, so that a provider that is down does not get more calls than one that is
    well: `share` of the calls of the last seconds, and `reserve` a minute (as Finagle's
    `RetryBudget`).

    Args:
        attempts: of one call, with the first.
        base_s: most seconds before the second attempt.
        cap_s: most seconds before any.
        share: retries per call. 0.2 lets a provider that is down get 20 % more calls.
        reserve: retries a minute that are allowed besides, for those who ask seldom.

    Raises:
        ConfigurationError: one of them has no meaning.
    """

    attempts: int = 3
    base_s: float = 0.5
    cap_s: float = 8.0
    share: float = 0.2
    reserve: int = 10

    def __post_init__(self) -> None:
        _check_count(self, "attempts", 1)
        _check_count(self, "reserve", 0)
        for name in ("base_s", "cap_s", "share"):
            _check(self, name, 0)

    def most_s(self, attempt: int) -> float:
        """Seconds below which the wait after this attempt, from 1, is drawn."""
        # 2.0 ** 1024 is no float any more.
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60))


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a tier that fails is left alone, and for how long.

    Counted is what speaks of the server: nobody listens, 5xx, no answer in time, a broken
    connection, an answer that cannot be read, 429 without `Retry-After`. A request that was
    refused shows that the server is well.

    Args:
        in_a_row: failures one after the other that open it; None for no such limit.
        rate: share of failures among the calls of the last `window_s` that opens it; None for no
            such limit.
        window_s: seconds over which the share is taken.
        least_calls: in the window, below which a share says nothing.
        open_s: seconds until one call tries the server again.
        growth: factor of this with each such call that fails.
        most_open_s: most seconds between two of them.

    Raises:
        ConfigurationError: one of them has no meaning, or nothing would ever open it.
    """

    in_a_row: int | None = 5
    rate: float | None = 0.5
    window_s: float = 30.0
    least_calls: int = 20
    open_s: float = 2.0
    growth: float = 2.0
    most_open_s: float = 15.0

    def __post_init__(self) -> None:
        if self.in_a_row is None and self.rate is None:
            raise ConfigurationError(
                "Breaker(in_a_row=None, rate=None) would never open: give one of them, or "
                "breaker=None for none."
            )
        if self.in_a_row is not None:
            _check_count(self, "in_a_row", 1)
        if self.rate is not None:
            _check(self, "rate", 0, below=True)
            if self.rate > 1:
                _refuse(self, "rate", "a share above 0, up to 1")
        _check_count(self, "least_calls", 1)
        for name in ("window_s", "open_s", "most_open_s"):
            _check(self, name, 0, below=True)
        _check(self, "growth", 1)
        if self.most_open_s < self.open_s:
            _refuse(self, "most_open_s", f"no less than open_s, which is {self.open_s}")


@dataclass(frozen=True, slots=True)
class Bulkhead:
    """How many calls to a tier may be under way, so that one that hangs does not take all there is.

    Args:
        most: calls at the same time.
        waiting: calls that may wait for a place; one more fails at once.
        wait_s: most seconds that one waits. Under a deadline it is half of what is left, so that
            there is time for what is done instead.

    Raises:
        ConfigurationError: one of them has no meaning.
    """

    most: int = 256
    waiting: int = 10_000
    wait_s: float = 60.0

    def __post_init__(self) -> None:
        _check_count(self, "most", 1)
        _check_count(self, "waiting", 0)
        _check(self, "wait_s", 0, below=True)


@dataclass(frozen=True, slots=True)
class Resilience:
    """What stands around each call to a model; each part may be None, for none.

    Args:
        retries: when a failed call is sent again; None for never.
        breaker: when a tier that fails is left alone.
        bulkhead: how many calls may be under way.
        tiers: other settings for some tiers, by their names.

    Raises:
        ConfigurationError: a part is none, or the settings of a tier have tiers again.
    """

    retries: Retries | None = field(default_factory=Retries)
    breaker: Breaker | None = field(default_factory=Breaker)
    bulkhead: Bulkhead | None = field(default_factory=Bulkhead)
    tiers: Mapping[str, Resilience] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in (("retries", Retries), ("breaker", Breaker), ("bulkhead", Bulkhead)):
            if not isinstance(getattr(self, name), kind | None):
                _refuse(self, name, f"{kind.__name__}(…), or None for none")
        tiers: object = self.tiers
        if not isinstance(tiers, Mapping):
            raise ConfigurationError(
                f"Resilience(tiers={tiers!r}): give settings by the names of tiers, "
                "{'large': Resilience(…)}."
            )
        for tier, settings in tiers.items():
            if not isinstance(settings, Resilience):
                raise ConfigurationError(
                    f"Resilience(tiers={{{tier!r}: {settings!r}}}): give Resilience(…)."
                )
            if settings.tiers:
                raise ConfigurationError(
                    f"Resilience(tiers={{{tier!r}: …}}): the settings of a tier have no tiers."
                )

    def of(self, tier: str) -> Resilience:
        """The settings for a tier."""
        return self.tiers.get(tier, self)

    def with_attempts(self, attempts: int) -> Resilience:
        """The same with so many attempts of each call, with whatever tier."""
        retries = replace(Retries() if self.retries is None else self.retries, attempts=attempts)
        tiers = {name: each.with_attempts(attempts) for name, each in self.tiers.items()}
        return replace(self, retries=retries, tiers=tiers)

    @property
    def attempts(self) -> int:
        """Attempts of a call at most, with whatever tier."""
        every = (self, *self.tiers.values())
        return max(1 if each.retries is None else each.retries.attempts for each in every)
