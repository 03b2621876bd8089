"""Options of another kind than they have to be are refused, with what to give."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cascade import Cascade
from cascade.errors import ConfigurationError
from cascade.policies import ThresholdPolicy
from cascade.testing import ScriptedModel

WRONG: list[tuple[str, object, str]] = [
    ("abort", "yes", "True, False, or a share"),
    ("abort", None, "True, False, or a share"),
    ("deadline", "5", "seconds"),
    ("deadline", True, "seconds"),
    ("deadline", math.nan, "seconds"),
    ("deadline", math.inf, "seconds"),
    ("escalation_budget", "20 %", "a share of requests"),
    ("max_harm", "0.1", "a share of requests"),
    ("name", 3, "a text"),
    ("name", " ", "a text"),
    ("observers", 3, "a list of observers"),
    ("policy", "cheap", "decide"),
    ("policy", ThresholdPolicy, "decide"),
    ("price_of_error", "0.05", "dollars"),
    ("retry_policy", 3, "RetryPolicy"),
    ("router", "small", "a function from messages"),
    ("verifier", 3, "a function \\(question, answer\\)"),
]


def made(**options: Any) -> Cascade:
    return Cascade(ScriptedModel("a", logprobs=0.9), ScriptedModel("b"), **options)


@pytest.mark.parametrize(("name", "value", "wanted"), WRONG)
def test_it_says_what_to_give(name: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}=.*: give .*{wanted}"):
        made(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("deadline", "5"), ("policy", ThresholdPolicy)])
def test_a_policy_for_one_request_is_looked_at_in_the_same_way(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}=.*: give"):
        made().with_policy(**{name: value})
