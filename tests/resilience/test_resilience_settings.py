"""The settings refuse what has no meaning, and say what does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cascade import Cascade
from cascade.errors import ConfigurationError
from cascade.resilience import Breaker, Bulkhead, Doors, Resilience, Retries
from cascade.testing import ScriptedModel


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Retries(attempts=0), "Retries(attempts=0): give a whole number of at least 1"),
        (lambda: Retries(attempts=True), "attempts=True"),
        (lambda: Retries(base_s=-1), "base_s=-1): give a number of at least 0"),
        (lambda: Retries(cap_s=float("inf")), "cap_s=inf"),
        (lambda: Retries(share=float("nan")), "share=nan"),
        (lambda: Retries(reserve=-1), "reserve=-1"),
        (lambda: Retries(reserve=1.5), "reserve=1.5"),  # type: ignore[arg-type]
        (lambda: Breaker(in_a_row=None, rate=None), "would never open"),
        (lambda: Breaker(in_a_row=0), "in_a_row=0"),
        (lambda: Breaker(rate=0), "rate=0): give a number above 0"),
        (lambda: Breaker(rate=1.5), "rate=1.5"),
        (lambda: Breaker(least_calls=0), "least_calls=0"),
        (lambda: Breaker(window_s=0), "window_s=0"),
        (lambda: Breaker(open_s="2"), "open_s='2'"),  # type: ignore[arg-type]
        (lambda: Breaker(growth=0.5), "growth=0.5"),
        (lambda: Breaker(open_s=20), "most_open_s=15.0): give no less than open_s, which is 20"),
        (lambda: Bulkhead(most=0), "most=0"),
        (lambda: Bulkhead(waiting=-1), "waiting=-1"),
        (lambda: Bulkhead(wait_s=0), "wait_s=0"),
        (lambda: Resilience(breaker=True), "breaker=True): give Breaker"),  # type: ignore[arg-type]
        (lambda: Resilience(retries=3), "retries=3): give Retries"),  # type: ignore[arg-type]
        (lambda: Resilience(tiers=["large"]), "tiers=['large']"),  # type: ignore[arg-type]
        (lambda: Resilience(tiers={"large": 3}), "'large': 3"),  # type: ignore[dict-item]
        (
            lambda: Resilience(tiers={"a": Resilience(tiers={"b": Resilience()})}),
            "the settings of a tier have no tiers",
        ),
    ],
)
def test_a_setting_without_meaning_is_refused_with_its_value(
    make: Callable[[], Any], named: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make()
    assert named in str(refused.value)


@pytest.mark.parametrize("given", [True, 3, "on", {"breaker": None}])
def test_a_cascade_refuses_a_resilience_that_is_none(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="resilience="):
        Cascade(ScriptedModel("a"), ScriptedModel("b"), resilience=given)


def test_settings_of_a_tier_that_is_not_there_are_refused() -> None:
    settings = Resilience(tiers={"lage": Resilience()})
    for given in (settings, Doors(settings)):
        with pytest.raises(ConfigurationError, match=r"'lage'.*there are small, large"):
            Cascade(ScriptedModel("a"), ScriptedModel("b"), resilience=given)


def test_a_tier_may_have_settings_of_its_own() -> None:
    local = Resilience(bulkhead=Bulkhead(most=2))
    settings = Resilience(tiers={"small": local})
    assert settings.of("small") is local
    assert settings.of("large") is settings


def test_attempts_are_those_of_the_most_patient_tier() -> None:
    settings = Resilience(retries=None, tiers={"large": Resilience(retries=Retries(attempts=5))})
    assert settings.attempts == 5
    assert Resilience(retries=None).attempts == 1


def test_other_attempts_leave_all_else_as_it_is() -> None:
    settings = Resilience(Retries(base_s=1), tiers={"large": Resilience(retries=None)})
    changed = settings.with_attempts(7)
    assert changed.retries == Retries(attempts=7, base_s=1)
    assert changed.of("large").retries == Retries(attempts=7)


def test_the_wait_is_drawn_from_twice_as_much_each_time_and_never_more_than_the_cap() -> None:
    retries = Retries(attempts=2000, base_s=0.5, cap_s=8)
    assert [retries.most_s(attempt) for attempt in range(1, 7)] == [0.5, 1, 2, 4, 8, 8]
    assert retries.most_s(1999) == 8
