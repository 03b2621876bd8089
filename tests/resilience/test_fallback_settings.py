"""Orders of steps that cannot work are refused when the cascade is made."""

from __future__ import annotations

from typing import Any

import pytest

from cascade import Cascade, Queue, Tier
from cascade.agents.fallback import Fallback, to_fallback
from cascade.errors import ConfigurationError, UnknownProviderError
from cascade.testing import ScriptedModel
from tests.resilience.fallbacks import House, other


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((), "give one step or more"),
        (("drafts",), "fallback has the step 'drafts': a step is 'draft', 'queue' or Queue"),
        ((7,), "fallback has the step 7"),
        ((None, "draft"), "fallback has the step None"),
        ("queue", r"could wait for ever: give Queue\(seconds=30\), or deadline=…"),
        ((Queue(), "draft"), "could wait for ever"),
        (("fail", "draft"), "has 'draft' after 'fail'"),
        (("draft", "draft"), "names 'draft' twice"),
        (("queue", Queue(seconds=1)), "names 'queue' twice"),
        ((other(name="large"),), "another tier is called 'large' already"),
        ((other(), other()), "another tier is called 'other' already"),
    ],
)
def test_an_order_that_cannot_work_is_refused(given: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        House(given)


@pytest.mark.parametrize("step", ["draft", "ask"])
def test_a_single_tier_has_no_draft_to_fall_back_on(step: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs a draft, and there is only one tier"):
        Cascade(tiers=[ScriptedModel(["x"])], fallback=(step, "fail"))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"seconds": 0}, r"Queue\(seconds=0\): seconds, above 0"),
        ({"seconds": float("nan")}, "seconds, above 0"),
        ({"seconds": "30"}, "seconds, above 0"),
        ({"every": -1}, r"Queue\(every=-1\)"),
        ({"every": None, "seconds": True}, "seconds, above 0"),
        ({"most": 0}, r"Queue\(most=0\): questions that wait, 1 or more"),
        ({"most": 2.5}, "questions that wait"),
    ],
)
def test_bounds_of_a_queue_that_mean_nothing_are_refused(
    settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Queue(**settings)


def test_a_model_elsewhere_is_refused_where_nothing_may_leave_this_machine() -> None:
    far = Tier(ScriptedModel(["x"], name="far", local=False), name="far")
    with pytest.raises(ConfigurationError, match="fallback asks scripted:far, which is not on"):
        House((far,), local_only=True)


def test_an_order_for_a_large_model_that_nothing_leads_to_is_refused() -> None:
    far = Tier(ScriptedModel(["x"], name="far", local=False), name="far")
    with pytest.raises(ConfigurationError, match="is for when far is down, which there is no way"):
        Cascade(ScriptedModel(["x"]), far, fallback="draft", local_only=True)


def test_a_wrong_model_string_is_told_like_that_of_a_tier() -> None:
    with pytest.raises(UnknownProviderError):
        House(("nobody:knows", "draft"))


def test_a_deadline_is_a_bound_for_waiting() -> None:
    assert House("queue", deadline=30.0).cascade


def test_one_step_may_be_given_alone() -> None:
    tiers = House("fail").cascade.tiers
    assert to_fallback("fail", tiers).steps == ("fail",)
    assert [tier.name for tier in to_fallback(other(), tiers).tiers] == ["other"]


def test_by_default_there_is_the_draft() -> None:
    assert to_fallback(None, House("fail").cascade.tiers) == Fallback(("draft",))
