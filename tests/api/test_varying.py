"""`Cascade.with_policy`: other policies for single questions, on what the cascade has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Self

import pytest

from cascade import Cascade, Price, Tier
from cascade.agents import Task
from cascade.confidence.calibration import ModelIdentity
from cascade.errors import CalibrationMismatchError, ConfigurationError
from cascade.ledger import MemoryLedger
from cascade.models import Request
from cascade.oversight import Drift
from cascade.policies import (
    CertifiedPolicy,
    DeadlinePolicy,
    EconomicPolicy,
    Situation,
    ThresholdPolicy,
)
from cascade.policies.budget import DollarBudget, DollarBudgetPolicy
from cascade.setup import task_hash
from cascade.state import Certificate, Completion, Decision
from cascade.testing import ScriptedModel, reply
from tests.confidence.drafts import drafts, made

PRICE = Price(input=Decimal(10), output=Decimal(10))


def as_asked(request: Request) -> Completion:
    """A draft with the probability that the question begins with."""
    return reply("draft", probability=float(str(request.messages[-1].text).split()[0]))


def pair() -> tuple[Any, Any]:
    small = ScriptedModel(as_asked, name="small", returns_logprobs=True)
    return small, Tier(ScriptedModel("right", name="large"), price=PRICE)


def certificate(max_harm: float, threshold: float, **others: Any) -> Certificate:
    return Certificate(
        threshold=threshold,
        max_harm=max_harm,
        delta=0.1,
        n=100,
        errors=0,
        coverage=0.5,
        bound=max_harm,
        **others,
    )


def calibrated(*certificates: Certificate) -> Any:
    small, _ = pair()
    tier = Tier(small).open("small")
    return made(drafts(300), (("logprobs", 0),)).model_copy(
        update={
            "small": ModelIdentity(name="scripted:small"),
            "large": ModelIdentity(name="scripted:large"),
            "task_hash": task_hash(Task(), tier),
            "certificates": certificates,
        }
    )


# Another policy --------------------------------------------------------------------------------


def test_another_policy_decides_about_the_same_draft() -> None:
    cascade = Cascade(*pair())
    strict = cascade.with_policy(policy=ThresholdPolicy(0.99))
    assert cascade.invoke("0.9 ?").answer == "draft"
    assert strict.invoke("0.9 ?").answer == "right"
    assert cascade.invoke("0.9 ?").answer == "draft"


def test_models_ledger_and_observers_are_shared() -> None:
    store = MemoryLedger()
    cascade = Cascade(*pair(), ledger=store)
    other = cascade.with_policy(price_of_error=1000.0)
    assert other.tiers is cascade.tiers
    assert other.invoke("0.9 ?").escalated
    assert {entry.node for entry in store.entries} >= {"draft", "verify", "expert"}


def test_a_policy_is_kept_for_the_next_question() -> None:
    cascade = Cascade(*pair())
    assert cascade.with_policy(price_of_error=1.0) is cascade.with_policy(price_of_error=1.0)
    assert cascade.with_policy(price_of_error=1.0) is not cascade.with_policy(price_of_error=2.0)
    one = cascade.with_policy(policy=ThresholdPolicy(0.9))
    assert one is cascade.with_policy(policy=ThresholdPolicy(0.9))


def test_policies_of_two_kinds_with_the_same_figures_are_two() -> None:
    @dataclass(frozen=True)
    class Never:
        threshold: float

        def decide(self, situation: Situation) -> Decision:
            del situation
            return Decision(action="escalate", reason="never")

    cascade = Cascade(*pair())
    assert cascade.with_policy(policy=ThresholdPolicy(0.5)).invoke("0.9 ?").answer == "draft"
    assert cascade.with_policy(policy=Never(0.5)).invoke("0.9 ?").answer == "right"


def test_policies_that_learn_are_told_apart_and_learn_only_of_their_own_questions() -> None:
    first, second = (DollarBudget(DollarBudgetPolicy(0.001)) for _ in range(2))
    cascade = Cascade(*pair())
    assert cascade.with_policy(policy=first) is cascade.with_policy(policy=first)
    assert cascade.with_policy(policy=first) is not cascade.with_policy(policy=second)
    before = second.policy
    cascade.with_policy(policy=first).invoke("0.9 ?")
    assert second.policy == before


def test_nothing_given_is_the_cascade_itself() -> None:
    cascade = Cascade(*pair(), price_of_error=1.0)
    assert cascade.with_policy() is cascade
    assert cascade.with_policy(price_of_error=1.0) is cascade
    assert cascade.with_policy(price_of_error=2.0).with_policy(price_of_error=1.0) is cascade


def test_a_deadline_goes_with_the_policy_that_is_there_and_stays_with_another() -> None:
    cascade = Cascade(*pair(), price_of_error=1.0)
    hurried = cascade.with_policy(deadline=5)
    assert hurried.policy == DeadlinePolicy(EconomicPolicy(1.0))
    assert hurried.with_policy(price_of_error=2.0).policy == DeadlinePolicy(EconomicPolicy(2.0))


def test_what_one_variant_learned_of_latency_the_others_know() -> None:
    cascade = Cascade(*pair())
    cascade.with_policy(deadline=50).invoke("0.1 ?")
    assert cascade._deadline.expected_s("large") is not None
    assert cascade.with_policy(deadline=60)._deadline.expected_s("large") is not None


def test_a_deadline_that_has_passed_accepts_the_draft() -> None:
    cascade = Cascade(*pair())
    cascade.with_policy(deadline=60)._deadline.saw("large", 100.0)
    result = cascade.with_policy(deadline=60).invoke("0.1 ?")
    assert (result.answer, result.decision.action) == ("draft", "accept")
    assert cascade.invoke("0.1 ?").answer == "right"


def test_task_and_policy_go_together_in_either_order() -> None:
    cascade = Cascade(*pair())
    task = Task(max_tokens=7)
    one = cascade.with_policy(price_of_error=1.0).with_task(task)
    assert one is cascade.with_task(task).with_policy(price_of_error=1.0)
    assert (one.task, one.policy) == (task, EconomicPolicy(1.0))
    assert one.with_task(cascade.task).with_policy(price_of_error=2.0).task == cascade.task


def test_the_options_of_a_variant_make_it_again() -> None:
    cascade = Cascade(*pair(), escalation_budget=None, price_of_error=1.0)
    other = cascade.with_policy(price_of_error=3.0)
    assert (other.options["price_of_error"], cascade.options["price_of_error"]) == (3.0, 1.0)
    assert Cascade(**other.options).policy == other.policy


# What it needs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_harm": 0.05}, "max_harm=0.05 needs calibrator=…"),
        ({"escalation_budget": 0.1}, "escalation_budget needs calibrator=…"),
        ({"price_of_error": 1.0, "max_harm": 0.1}, "price_of_error and max_harm were both given"),
        ({"deadline": 0}, "deadline=0: seconds, above 0"),
        ({"price_of_error": -1.0}, "price_of_error=-1.0"),
    ],
)
def test_what_cannot_be_had_is_refused_as_by_the_constructor(
    options: dict[str, Any], words: str
) -> None:
    cascade = Cascade(*pair())
    with pytest.raises(ConfigurationError) as refused:
        cascade.with_policy(**options)
    with pytest.raises(ConfigurationError) as by_constructor:
        Cascade(*pair(), **options)
    assert str(refused.value) == str(by_constructor.value)
    assert words in str(refused.value)


def test_an_error_needs_the_price_of_the_large_model() -> None:
    cascade = Cascade(pair()[0], ScriptedModel("right", name="large"))
    with pytest.raises(ConfigurationError, match="which is unknown"):
        cascade.with_policy(price_of_error=1.0)


def test_a_certificate_and_a_deadline_do_not_go_together() -> None:
    cascade = Cascade(*pair(), calibrator=calibrated(certificate(0.1, 0.9)), max_harm=0.1)
    with pytest.raises(ConfigurationError, match="Give one of them"):
        cascade.with_policy(deadline=5)


def test_what_must_stay_here_allows_no_promise_that_needs_the_large_model() -> None:
    small, _ = pair()
    remote = Tier(ScriptedModel("right", name="large"), price=PRICE, local=False)
    calibration = calibrated(certificate(0.1, 0.9))
    cascade = Cascade(small, remote, calibrator=calibration, local_only=True)
    with pytest.raises(ConfigurationError, match="a certificate"):
        cascade.with_policy(max_harm=0.1)


# Certificates ----------------------------------------------------------------------------------


def test_the_stricter_promise_takes_its_own_certificate() -> None:
    calibration = calibrated(certificate(0.1, 0.2), certificate(0.01, 0.999))
    cascade = Cascade(*pair(), calibrator=calibration, max_harm=0.1)
    strict = cascade.with_policy(max_harm=0.01)
    assert isinstance(strict.policy, CertifiedPolicy)
    assert strict.policy.certificate.threshold == 0.999
    assert (cascade.invoke("0.97 ?").answer, strict.invoke("0.97 ?").answer) == ("draft", "right")


class Later(datetime):
    """The clock of the day after tomorrow."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(days=2)


TOMORROW = datetime.now(UTC) + timedelta(days=1)


def test_a_certificate_that_has_ended_is_void_for_its_own_policy_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = calibrated(certificate(0.1, 0.2), certificate(0.01, 0.2, valid_until=TOMORROW))
    cascade = Cascade(*pair(), calibrator=calibration, max_harm=0.1)
    ended = cascade.with_policy(max_harm=0.01)
    assert not ended.invoke("0.97 ?").escalated
    monkeypatch.setattr("cascade.oversight.validity.datetime", Later)
    results = [ended.invoke("0.97 ?"), ended.invoke("0.97 ?"), cascade.invoke("0.97 ?")]
    assert [result.escalated for result in results] == [True, True, False]
    assert "the certificate ended on" in results[0].decision.reason
    told = [record for record in caplog.records if "the certificate ended on" in record.message]
    assert len(told) == 1


def test_another_policy_goes_on_after_the_end_of_the_cascades_own_certificate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calibration = calibrated(certificate(0.1, 0.2, valid_until=TOMORROW))
    cascade = Cascade(*pair(), calibrator=calibration, max_harm=0.1)
    monkeypatch.setattr("cascade.oversight.validity.datetime", Later)
    assert cascade.invoke("0.97 ?").escalated
    assert not cascade.with_policy(policy=ThresholdPolicy(0.2)).invoke("0.97 ?").escalated


def test_a_share_of_escalations_is_kept_by_the_calibrations_confidences() -> None:
    cascade = Cascade(*pair(), calibrator=calibrated())
    none, all_but_none = (cascade.with_policy(escalation_budget=rate) for rate in (0.0, 1.0))
    assert not none.invoke("0.9 ?").escalated
    assert all_but_none.invoke("0.9 ?").escalated


async def test_weights_are_looked_at_once_for_all_variants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[object] = []

    async def check(*given: object) -> None:
        looked.append(given)

    monkeypatch.setattr("cascade.api.check_weights", check)
    cascade = Cascade(*pair(), calibrator=calibrated())
    for deadline in (5, 6, 7):
        await cascade.with_policy(deadline=deadline).ainvoke("0.9 ?")
    await cascade.ainvoke("0.9 ?")
    assert len(looked) == 1


async def test_other_weights_are_refused_under_every_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check(*_: object) -> None:
        raise CalibrationMismatchError("other weights")

    monkeypatch.setattr("cascade.api.check_weights", check)
    cascade = Cascade(*pair(), calibrator=calibrated())
    for asked in (cascade.with_policy(deadline=5), cascade):
        with pytest.raises(CalibrationMismatchError):
            await asked.ainvoke("0.9 ?")


# Drift -----------------------------------------------------------------------------------------


def quick() -> Drift:
    return Drift(signals="large_only", window=20, reference=50)


async def test_what_another_policy_escalates_is_no_drift_of_escalations() -> None:
    cascade = Cascade(*pair(), drift=quick())
    for i in range(60):
        await cascade.ainvoke(f"{0.90 + i % 9 / 100:.2f} {i}?")
    strict = cascade.with_policy(policy=ThresholdPolicy(1.0))
    for i in range(60):
        assert (await strict.ainvoke(f"{0.90 + i % 9 / 100:.2f} {i}!")).escalated
    assert cascade.drift is not None
    assert [alarm.kind for alarm in cascade.drift.alarms] == []
    await cascade.aclose()


async def test_drafts_that_become_worse_are_seen_under_every_policy() -> None:
    cascade = Cascade(*pair(), drift=quick())
    for i in range(60):
        await cascade.ainvoke(f"{0.90 + i % 9 / 100:.2f} {i}?")
    lax = cascade.with_policy(policy=ThresholdPolicy(0.0))
    for i in range(60):
        await lax.ainvoke(f"{0.30 + i % 9 / 100:.2f} {i}!")
    await cascade.audits_done()
    assert cascade.drift is not None
    assert {alarm.kind for alarm in cascade.drift.alarms} >= {"signals"}
    assert (await lax.ainvoke("0.9 ?")).answer == "right"
    assert (await cascade.ainvoke("0.9 ?")).answer == "right"
    await cascade.aclose()
