"""Setting up a cascade: what works and what is refused, with the reason."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import ConfigurationError
from cascade.policies import EconomicPolicy, ThresholdPolicy
from cascade.testing import ScriptedModel, reply
from cascade.tiers import open_tiers

SMALL, LARGE = ScriptedModel("a", name="a"), ScriptedModel("b", name="b")
PRICED = Tier(LARGE, price=Price(input=1, output=1))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "small is missing"),
        ({"small": SMALL}, "large is missing"),
        ({"large": LARGE}, "small is missing"),
        ({"small": SMALL, "large": LARGE, "tiers": [SMALL]}, "not both"),
        ({"small": Tier(SMALL, name="x"), "large": Tier(LARGE, name="x")}, "two tiers are called"),
        ({"tiers": [SMALL, SMALL]}, "two tiers are called"),
        ({"small": SMALL, "large": LARGE, "signals": ["luck"]}, "no signal 'luck'"),
        ({"small": SMALL, "large": LARGE, "price_of_error": 0.05}, "unknown"),
        ({"small": SMALL, "large": PRICED, "price_of_error": -1}, "above 0"),
        (
            {"small": SMALL, "large": PRICED, "price_of_error": 1, "policy": ThresholdPolicy()},
            "both given",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Cascade(**options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"timeout_s": -1}, "timeout_s=-1"),
        ({"temperature": -0.1}, "temperature"),
        ({"name": " "}, "name"),
    ],
)
def test_a_tier_with_an_impossible_limit_is_refused(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Tier(SMALL, **options)


def test_at_least_one_tier_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="at least one tier"):
        open_tiers([])


def test_a_key_is_never_shown() -> None:
    tier = Tier("openai:gpt-5.1", api_key="sk-secret")
    cascade = Cascade(tier, PRICED)
    assert "sk-secret" not in f"{tier!r} {cascade!r} {cascade.tiers!r}"


def test_a_cascade_shows_its_tiers_and_its_policy() -> None:
    shown = repr(Cascade(SMALL, LARGE))
    assert shown == (
        "Cascade(small (scripted:a) → large (scripted:b), ThresholdPolicy(threshold=0.8))"
    )


def test_a_price_of_error_is_weighed_by_the_economic_policy() -> None:
    policy = Cascade(SMALL, PRICED, price_of_error=0.05).policy
    assert isinstance(policy, EconomicPolicy)
    assert policy.price_of_error == 0.05


def test_settings_of_a_tier_reach_its_model() -> None:
    model = ScriptedModel(["a"], logprobs=0.9)
    tier = Tier(model, max_tokens=7, temperature=0.5, timeout_s=9)
    Cascade(tier, LARGE).invoke("?")
    request = model.requests[0]
    assert (request.max_tokens, request.temperature, request.timeout_s) == (7, 0.5, 9)
    assert (request.logprobs, request.top_logprobs) == (True, 2)


async def test_a_cascade_closes_its_models_and_can_be_used_again() -> None:
    class Closing(ScriptedModel):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    model = Closing(["a"])
    async with Cascade(tiers=[model]) as cascade:
        assert (await cascade.ainvoke("?")).answer == "a"
    assert model.closed == 1
    assert (await cascade.ainvoke("?")).answer == "a"


def test_an_uncalibrated_cascade_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    cascade = Cascade(ScriptedModel([reply("a", probability=0.9)]), LARGE, name="mine")
    with caplog.at_level(logging.INFO, logger="cascade"):
        assert not cascade.invoke("?").calibrated
        cascade.invoke("?")
    (message,) = [m for m in caplog.messages if "uncalibrated" in m]
    assert message.startswith("mine: ")
