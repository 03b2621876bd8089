"""From options to signals, a calibration and one policy: what is chosen and what is refused."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from cascade import Price, Tier, setup
from cascade.agents import Task
from cascade.confidence.calibration import Calibration, ModelIdentity
from cascade.confidence.signals import Agreement, PTrueSignal
from cascade.errors import (
    CalibrationMismatchError,
    ConfigurationError,
    MissingDependencyError,
)
from cascade.policies import CertifiedPolicy, DeadlinePolicy, EconomicPolicy, ThresholdPolicy
from cascade.setup import (
    check_calibration,
    choose_policy,
    choose_signals,
    identify,
    load_calibration,
    open_pair_or_tiers,
    task_hash,
)
from cascade.state import Certificate
from cascade.testing import ScriptedModel
from tests.confidence.drafts import drafts, made, usual

SMALL, LARGE = ScriptedModel("a", name="small"), ScriptedModel("b", name="large")
PRICED = open_pair_or_tiers(SMALL, Tier(LARGE, price=Price(input=1, output=1)), ())
PRICELESS = open_pair_or_tiers(SMALL, LARGE, ())


def certificate(harm: float, coverage: float = 0.5, until: datetime | None = None) -> Certificate:
    return Certificate(
        threshold=1 - coverage,
        max_harm=harm,
        delta=0.1,
        n=100,
        errors=1,
        coverage=coverage,
        bound=harm,
        valid_until=until,
    )


def promising(*certificates: Certificate) -> Calibration:
    return usual().model_copy(update={"certificates": certificates})


# --- the policy


def test_without_options_the_documented_threshold_decides() -> None:
    assert choose_policy(PRICELESS, None) == ThresholdPolicy()


def test_a_policy_of_the_users_is_taken_as_it_is() -> None:
    mine = ThresholdPolicy(0.3)
    assert choose_policy(PRICELESS, None, policy=mine) is mine
    assert choose_policy(PRICELESS, None, policy=mine, deadline=2.0) == DeadlinePolicy(mine)


def test_the_economic_policy_knows_the_large_model_from_the_calibration() -> None:
    assert choose_policy(PRICED, None, price_of_error=2.0) == EconomicPolicy(2.0, 1.0)
    unknown = usual().model_copy(update={"p_large": None})
    assert choose_policy(PRICED, unknown, price_of_error=2.0) == EconomicPolicy(2.0, 1.0)
    known = usual().model_copy(update={"p_large": 0.9})
    assert choose_policy(PRICED, known, price_of_error=2.0) == EconomicPolicy(2.0, 0.9)


def test_a_large_model_that_is_never_right_is_not_taken_for_one_that_always_is() -> None:
    never = usual().model_copy(update={"p_large": 0.0})
    assert choose_policy(PRICED, never, price_of_error=2.0) == EconomicPolicy(2.0, 0.0)


def test_the_escalation_budget_is_a_quantile_of_the_calibration() -> None:
    policy = choose_policy(PRICELESS, usual(), escalation_budget=0.25)
    assert isinstance(policy, ThresholdPolicy)
    assert policy.threshold == usual().confidences[25]


def test_of_the_certificates_that_are_strict_enough_the_one_that_accepts_most_is_taken() -> None:
    calibration = promising(certificate(0.01, 0.2), certificate(0.05, 0.6), certificate(0.2, 0.9))
    policy = choose_policy(PRICELESS, calibration, max_harm=0.1)
    assert isinstance(policy, CertifiedPolicy)
    assert policy.certificate.max_harm == 0.05


@pytest.mark.parametrize(
    ("calibration", "options", "complaint"),
    [
        (None, {"max_harm": 0.05}, "needs calibrator"),
        (None, {"escalation_budget": 0.3}, "needs calibrator"),
        (usual(), {"max_harm": 0.05}, "certificates for none"),
        (promising(certificate(0.2)), {"max_harm": 0.05}, r"certificates for 20\.0%"),
        (promising(certificate(0.2)), {"max_harm": 5}, "between 0 and 1, such as 0.05"),
        (promising(certificate(0.2)), {"max_harm": 0.0}, "between 0 and 1, such as 0.05"),
        (
            promising(certificate(0.05, until=datetime(2020, 1, 1, tzinfo=UTC))),
            {"max_harm": 0.05},
            "ended on 2020-01-01",
        ),
        (promising(certificate(0.05)), {"max_harm": 0.05, "deadline": 1.0}, "when time runs out"),
        (usual(), {"escalation_budget": 1.5}, "between 0 and 1"),
        (None, {"deadline": 0}, "deadline=0"),
        (None, {"deadline": float("nan")}, "deadline=nan"),
        (None, {"price_of_error": 1.0}, "large .*unknown"),
        (None, {"price_of_error": 1.0, "max_harm": 0.1}, "were both given"),
        (
            None,
            {"price_of_error": 1.0, "max_harm": 0.1, "escalation_budget": 0.1},
            "price_of_error and max_harm and escalation_budget were given",
        ),
    ],
)
def test_options_that_cannot_be_kept_are_refused(
    calibration: Calibration | None, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        choose_policy(PRICELESS, calibration, **options)


# --- signals


def test_the_signals_of_the_calibration_are_taken_in_its_order() -> None:
    assert [s.name for s in choose_signals((), usual())] == ["logprobs", "text", "p_true"]
    given = choose_signals(["p_true", "text", "logprobs"], usual())
    assert [s.name for s in given] == ["logprobs", "text", "p_true"]
    assert [s.name for s in choose_signals([PTrueSignal()], None)] == ["p_true"]


def test_other_signals_than_those_of_the_calibration_are_refused() -> None:
    with pytest.raises(CalibrationMismatchError, match=r"made with the signals .*, not"):
        choose_signals(["logprobs"], usual())


def test_a_calibration_on_signals_of_the_users_asks_for_them() -> None:
    rows = [
        type(row)({**row.features, "agreement": 1.0}, row.correct, row.large_correct)
        for row in drafts(30)
    ]
    calibration = made(rows, [("logprobs", 0), ("agreement", 1)])
    with pytest.raises(CalibrationMismatchError, match="give yours as signals="):
        choose_signals((), calibration)
    assert len(choose_signals(["logprobs", Agreement("ollama:x")], calibration)) == 2


# --- the calibration


def test_a_calibration_is_taken_as_it_is_or_read_from_its_file(tmp_path: Path) -> None:
    usual().save(tmp_path / "c.json")
    assert load_calibration(None) is None
    assert load_calibration(usual()) is usual()
    assert load_calibration(tmp_path / "c.json") == usual()
    assert load_calibration(str(tmp_path / "c.json")) == usual()


def test_a_calibration_without_numpy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleSpec | None:
        assert name == "numpy"
        return None

    monkeypatch.setattr(setup, "find_spec", missing)
    with pytest.raises(MissingDependencyError, match="agent-cascade\\[calibrate\\]"):
        load_calibration("c.json")
    assert "numpy" in sys.modules


async def test_a_calibration_is_bound_to_its_models_and_task() -> None:
    small, large = [await identify(tier) for tier in PRICED]
    assert small == ModelIdentity(name="scripted:small")
    task = Task()
    bound = usual().model_copy(
        update={"small": small, "large": large, "task_hash": task_hash(task, PRICED[0])}
    )
    check_calibration(bound, PRICED, task)
    schema = Task(schema={"type": "object"})
    with pytest.raises(CalibrationMismatchError, match="response_format"):
        check_calibration(bound, PRICED, schema)
    digested = bound.model_copy(update={"small": ModelIdentity(name=small.name, digest="a")})
    with pytest.raises(CalibrationMismatchError, match="weights of scripted:small"):
        check_calibration(digested, PRICED, task, small_digest="b")
    turned = (PRICED[1], PRICED[0])
    with pytest.raises(CalibrationMismatchError, match="not for"):
        check_calibration(bound, turned, task)


@pytest.mark.parametrize("options", [{"max_tokens": 7}, {"temperature": 0.5}])
def test_other_settings_of_the_small_tier_are_another_task(options: dict[str, Any]) -> None:
    other = open_pair_or_tiers(Tier(SMALL, **options), LARGE, ())
    assert task_hash(Task(), other[0]) != task_hash(Task(), PRICED[0])


def test_the_price_of_the_small_tier_is_no_part_of_the_task() -> None:
    other = open_pair_or_tiers(Tier(SMALL, price=Price(input=Decimal(3), output=3)), LARGE, ())
    assert task_hash(Task(), other[0]) == task_hash(Task(), PRICED[0])


# --- tiers


def test_tiers_may_be_given_as_a_list() -> None:
    assert [
        tier.model.name for tier in open_pair_or_tiers(None, None, (SMALL, Tier(LARGE, name="b")))
    ] == [
        "scripted:small",
        "scripted:large",
    ]


@pytest.mark.parametrize(
    ("small", "large", "tiers", "complaint"),
    [
        (None, LARGE, (), "small is missing"),
        (SMALL, None, (), "large is missing"),
        (SMALL, None, (LARGE,), "not both"),
        (None, LARGE, (SMALL,), "not both"),
    ],
)
def test_half_a_pair_or_a_pair_and_a_list_are_refused(
    small: Any, large: Any, tiers: Any, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        open_pair_or_tiers(small, large, tiers)
