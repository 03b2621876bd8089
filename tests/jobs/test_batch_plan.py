"""A planned batch: drafts first, the best escalations for the money, gone on with at any stage."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, MemoryLedger, Price, Tier
from cascade.agents import Task
from cascade.confidence.calibration import Calibration, ModelIdentity, Quality, Stage
from cascade.confidence.calibrators import Temperature
from cascade.errors import AuthenticationError, ConfigurationError, ModelUnavailableError
from cascade.jobs import Journal, Record, Row, made_with, write_output
from cascade.jobs.plan import PlanDone, plan_job, planned_with
from cascade.jobs.running import Purse
from cascade.ledger import LedgerView
from cascade.policies import ThresholdPolicy
from cascade.setup import task_hash
from cascade.testing import ScriptedModel, reply

CHEAP, DEAR = Price(input=1, output=1), Price(input=100, output=100)
MOST_TOKENS = 20


class Models:
    """A small model that is as often right as it is sure, and a large one that always is."""

    def __init__(self, *, longer: float = 1.0) -> None:
        self.asked: Counter[tuple[str, int]] = Counter()
        self.longer = longer
        self.broken: dict[tuple[str, int], Exception] = {}
        self.before: Callable[[], None] = lambda: None
        self.small = ScriptedModel(self._small, name="small", returns_logprobs=True)
        self.large = ScriptedModel(self._large, name="large")

    def _asked(self, model: str, request: Any) -> int:
        number = number_of(request)
        self.before()
        self.asked[model, number] += 1
        if (model, number) in self.broken:
            raise self.broken[model, number]
        return number

    def _small(self, request: Any) -> Any:
        number = self._asked("small", request)
        text = right(number) if is_right(number) else f"nonsense {number}"
        return reply(text, probability=sure(number), input_tokens=tokens(number), output_tokens=4)

    def _large(self, request: Any) -> Any:
        number = self._asked("large", request)
        written = round(4 * self.longer)
        return reply(right(number), input_tokens=tokens(number), output_tokens=written)


def number_of(request: Any) -> int:
    return int(str(request.messages[-1].text).split()[1])


def right(number: int) -> str:
    return f"answer {number}"


def sure(number: int) -> float:
    return random.Random(number).uniform(0.05, 0.97)


def is_right(number: int) -> bool:
    return random.Random(f"right {number}").random() < sure(number)


def tokens(number: int) -> int:
    return random.Random(f"long {number}").choice((10, 20, 40, 160))


def rows(n: int) -> list[Row]:
    return [Row(i, {"id": i}, f"question {i} ?") for i in range(n)]


def calibration() -> Calibration:
    """The raw score is the probability, as it is of these models; the large one is always right."""
    stage = Stage(
        signals=("logprobs",),
        columns=("raw",),
        calibrator=Temperature(column=0, slope=1.0, shift=0.0),
    )
    quality = Quality(
        n=300, accuracy_small=0.5, accuracy_large=1.0, ece=0, ece_raw=0, brier=0, brier_raw=0,
        auroc=0.8, auroc_gain=None,
    )  # fmt: skip
    small = Tier(Models().small, max_tokens=MOST_TOKENS).open("small")
    return Calibration(
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        library_version="0",
        small=ModelIdentity(name="scripted:small"),
        large=None,
        task_hash=task_hash(Task(), small),
        system_hash=None,
        labels="references",
        stages=(stage,),
        quality=quality,
        p_large=1.0,
    )


def pair(models: Models, *, calibrated: bool = True, **options: Any) -> Cascade:
    if calibrated:
        options["calibrator"] = calibration()
    return Cascade(
        Tier(models.small, price=CHEAP, max_tokens=MOST_TOKENS),
        Tier(models.large, price=DEAR, max_tokens=MOST_TOKENS),
        **options,
    )


async def run(cascade: Cascade, n: int, path: Path, sample: int = 0, **options: Any) -> PlanDone:
    with Journal(path, planned_with(made_with(cascade), sample, "exact")) as journal:
        return await plan_job(cascade, lambda: rows(n), journal, sample=sample, **options)


def records(cascade: Cascade, n: int, path: Path, sample: int = 0) -> list[Record]:
    with Journal(path, planned_with(made_with(cascade), sample, "exact")) as journal:
        return [record for i in range(n) if (record := journal.find(i))]


def output(cascade: Cascade, n: int, path: Path, sample: int = 0) -> bytes:
    with Journal(path, planned_with(made_with(cascade), sample, "exact")) as journal:
        write_output(path.with_suffix(".jsonl"), rows(n), journal, planned=True)
    return path.with_suffix(".jsonl").read_bytes()


def budget(n: int, share: float) -> Decimal:
    """Dollars for all drafts, and for this share of what asking the large model all costs."""
    read = sum(tokens(i) + 4 for i in range(n))
    return Decimal(read) * (1 + 100 * Decimal(str(share))) / 1_000_000


async def test_the_best_rows_by_gain_per_dollar_are_escalated_and_each_says_why(
    tmp_path: Path,
) -> None:
    models = Models()
    cascade = pair(models)
    done = await run(cascade, 120, tmp_path / "j", budget_usd=budget(120, 0.4))
    assert (done.answered, done.failed, done.drafted, done.stopped) == (120, 0, 120, None)
    assert done.spent_usd <= budget(120, 0.4)
    found = records(cascade, 120, tmp_path / "j")
    price = {i: (1 - sure(i)) / (tokens(i) + 4) for i in range(120)}
    escalated = {r.number for r in found if r.escalated}
    accepted = set(range(120)) - escalated
    assert 0 < len(escalated) < 120
    assert min(price[i] for i in escalated) >= sorted(price[i] for i in accepted)[-3]
    assert set(models.asked.values()) == {1}
    assert {number for model, number in models.asked if model == "large"} == escalated
    ranks = sorted(r.rank for r in found if r.rank is not None)
    assert ranks == list(range(1, 121))
    assert all("by gain per dollar" in str(r.reason) for r in found)
    assert all(r.answer == right(r.number) for r in found if r.escalated)
    assert done.gain == pytest.approx(sum(1 - sure(i) for i in escalated), abs=0.02)
    assert done.gain <= done.most_gain <= done.gain + 1
    assert done.gain_left == pytest.approx(sum(1 - sure(i) for i in accepted), abs=0.02)


async def test_the_money_left_after_the_best_rows_goes_to_those_that_still_fit(
    tmp_path: Path,
) -> None:
    money = budget(200, 0.3)
    done = await run(pair(Models()), 200, tmp_path / "j", budget_usd=money)
    smallest = Decimal(14 * 100) / 1_000_000
    assert money - done.spent_usd < smallest
    wordy = await run(pair(Models(longer=3.0)), 200, tmp_path / "k", budget_usd=money)
    assert wordy.spent_usd <= money
    assert money - wordy.spent_usd < smallest * 3


async def test_each_row_puts_aside_what_it_costs_and_a_decision_to_accept_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guesses: list[Decimal] = []
    take = Purse.take

    async def watched(purse: Purse, guess_usd: Decimal) -> Decimal | None:
        guesses.append(guess_usd)
        return await take(purse, guess_usd)

    monkeypatch.setattr(Purse, "take", watched)
    done = await run(pair(Models()), 40, tmp_path / "j", budget_usd=budget(40, 0.5), concurrency=1)
    drafts, escalations = guesses[:40], [g for g in guesses[40:] if g]
    assert min(drafts) > 0
    assert len(escalations) == done.escalated
    assert len(guesses) == 80
    costs = [r.expected_usd for r in records(pair(Models()), 40, tmp_path / "j") if r.escalated]
    assert sum(escalations) >= sum(cost for cost in costs if cost)


async def test_rows_at_once_change_nothing_about_which_are_escalated(tmp_path: Path) -> None:
    found = []
    for concurrency in (1, 16):
        cascade, path = pair(Models(longer=2.0)), tmp_path / f"{concurrency}"
        money = budget(90, 0.9)
        await run(cascade, 90, path, budget_usd=money, concurrency=concurrency)
        found.append(output(cascade, 90, path))
    assert found[0] == found[1]


async def test_where_the_last_escalations_cost_more_than_there_is_every_row_is_written(
    tmp_path: Path,
) -> None:
    cascade, money = pair(Models(longer=30.0)), budget(40, 0.5)
    done = await run(cascade, 40, tmp_path / "j", budget_usd=money)
    assert done.spent_usd > money
    assert 0 < done.escalated < 40
    assert (done.answered, done.failed, done.stopped) == (40, 0, None)
    assert len(output(cascade, 40, tmp_path / "j").splitlines()) == 40


async def test_a_run_is_one_in_the_ledger_with_its_draft_and_its_decision(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    cascade = pair(Models(), ledger=ledger)
    done = await run(cascade, 30, tmp_path / "j", budget_usd=budget(30, 0.4), name="night")
    by_run: dict[str, list[Any]] = {}
    for entry in ledger.entries:
        by_run.setdefault(entry.run_id, []).append(entry)
    assert len(by_run) == 30
    for record in records(cascade, 30, tmp_path / "j"):
        entries = by_run[str(record.run_id)]
        nodes = [entry.node for entry in entries]
        expected = ["draft", "self_check", "verify"]
        assert nodes == ([*expected, "expert"] if record.escalated else expected)
        view = LedgerView(entries)
        assert (record.cost_usd, record.saved_usd) == (view.cost_usd, view.saved_usd)
        assert str(record.reason) in entries[2].note
    assert done.spent_usd == LedgerView(ledger.entries).cost_usd


@pytest.mark.parametrize(("sample", "kills"), [(0, 5), (24, 1)])
async def test_a_job_that_is_ended_at_any_stage_goes_on_and_pays_nothing_twice(
    tmp_path: Path, sample: int, kills: int
) -> None:
    n, money = 90, budget(90, 0.75)
    options: dict[str, Any] = {"sample": sample, "budget_usd": money, "concurrency": 1}
    straight = Models()
    cascade = pair(straight, calibrated=not sample)
    whole = await run(cascade, n, tmp_path / "whole", **options)
    assert whole.stopped is None
    calls = sum(straight.asked.values())
    expected = output(cascade, n, tmp_path / "whole", sample)
    for after in sorted(random.Random(sample).sample(range(5, calls - 2), kills)):
        models, path = Models(), tmp_path / f"after {after}"
        cascade = pair(models, calibrated=not sample)
        await killed(cascade, models, n, path, after, **options)
        again = await run(cascade, n, path, **options)
        assert again.stopped is None
        assert output(cascade, n, path, sample) == expected, after
        assert max(models.asked.values()) == 1
        assert sum(models.asked.values()) == calls
        assert (again.gain, again.most_gain) == (whole.gain, whole.most_gain)
        assert again.before_usd + again.spent_usd == whole.spent_usd


async def killed(
    cascade: Cascade, models: Models, n: int, path: Path, after: int, **options: Any
) -> None:
    """The job, ended when the so-manieth call is about to be made."""
    stop, calls = asyncio.Event(), 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            stop.set()

    models.before = count
    done = await run(cascade, n, path, stop=stop, **options)
    assert done.stopped == "it was interrupted"
    models.before = lambda: None


async def test_a_sample_calibrates_raw_scores_and_bounds_what_is_lost(tmp_path: Path) -> None:
    models = Models()
    cascade = pair(models, calibrated=False)
    done = await run(cascade, 200, tmp_path / "j", sample=49, budget_usd=budget(200, 0.7))
    found = records(cascade, 200, tmp_path / "j", sample=49)
    drawn = [r for r in found if "both models are asked, to calibrate" in str(r.reason)]
    assert (done.sampled, len(drawn), done.stopped) == (49, 49, None)
    assert all(r.escalated for r in drawn)
    others = [r for r in found if r not in drawn]
    assert done.ranked == sum(r.rank is not None for r in others) <= 200 - 49
    escalated = [r.gain or 0.0 for r in others if r.escalated]
    assert done.gain == pytest.approx(sum(escalated))
    assert done.gain <= done.most_gain <= done.gain + 1
    assert all(r.calibrated for r in others)
    wrong = sum(not r.escalated and not is_right(r.number) for r in others) / len(others)
    assert done.loss_bound is not None
    assert done.loss is not None
    assert 0 <= done.loss < done.loss_bound < 0.5
    assert wrong <= done.loss_bound
    assert done.spent_usd <= budget(200, 0.7)


async def test_a_sample_beside_a_calibration_only_measures(tmp_path: Path) -> None:
    done = await run(pair(Models()), 60, tmp_path / "j", sample=5, budget_usd=budget(60, 0.8))
    assert (done.sampled, done.stopped) == (5, None)
    assert done.loss_bound is not None


async def test_a_price_of_an_error_leaves_what_is_not_worth_its_cost(tmp_path: Path) -> None:
    price = 0.01
    cascade = pair(Models(), price_of_error=price)
    done = await run(cascade, 80, tmp_path / "j")
    for record in records(cascade, 80, tmp_path / "j"):
        i = record.number
        gain, cost = 1 - sure(i), (tokens(i) + 4) * 100e-6
        assert record.escalated == (gain * price > cost), record
        assert record.escalated or "is not worth" in str(record.reason)
    assert done.gain == pytest.approx(done.most_gain)


async def test_a_draft_that_is_no_answer_comes_first_and_fails_where_the_money_is_out(
    tmp_path: Path,
) -> None:
    models = Models()
    models.small = ScriptedModel(
        lambda r: reply("" if number_of(r) < 5 else models._small(r).text, probability=0.9),
        name="small",
        returns_logprobs=True,
    )
    cascade = pair(models)
    done = await run(cascade, 40, tmp_path / "j", budget_usd=Decimal("0.0011"))
    assert done.failed == 5
    failed = records(cascade, 40, tmp_path / "j")[:5]
    assert all("the draft is no answer (the answer is empty)" in str(r.error) for r in failed), (
        failed
    )
    more = await run(cascade, 40, tmp_path / "j", budget_usd=Decimal(1))
    assert (more.failed, more.answered, more.resumed) == (0, 5, 35)
    assert [r.answer for r in records(cascade, 40, tmp_path / "j")[:5]] == [
        right(i) for i in range(5)
    ]


async def test_rows_whose_small_model_is_down_wait_for_the_large_one(tmp_path: Path) -> None:
    models = Models()
    models.broken = {
        ("small", i): ModelUnavailableError("down", model="small", billed=False) for i in range(3)
    }
    cascade = pair(models, resilience=None)
    done = await run(cascade, 30, tmp_path / "j", budget_usd=budget(30, 0.5))
    assert done.failed == 0
    first = records(cascade, 30, tmp_path / "j")[:3]
    assert [(r.answer, r.tier, r.rank is not None) for r in first] == [
        (right(i), "large", True) for i in range(3)
    ]


async def test_a_large_model_that_fails_for_good_leaves_an_error_and_the_draft_for_later(
    tmp_path: Path,
) -> None:
    models = Models()
    cascade = pair(models, resilience=None, fallback="fail")
    for i in range(60):
        wrong = AuthenticationError("no such key", model="large", billed=False)
        models.broken["large", i] = wrong
    done = await run(cascade, 60, tmp_path / "j", budget_usd=budget(60, 0.3))
    assert done.failed > 0
    assert done.stopped is None or "rows in a row failed" in done.stopped
    models.broken.clear()
    again = await run(cascade, 60, tmp_path / "j", budget_usd=budget(60, 0.3))
    assert (again.failed, again.stopped) == (0, None)
    assert all(count == 1 for (model, _), count in models.asked.items() if model == "small")


async def test_a_budget_below_the_drafts_decides_nothing_and_a_larger_one_goes_on(
    tmp_path: Path,
) -> None:
    models = Models()
    cascade = pair(models)
    done = await run(cascade, 50, tmp_path / "j", budget_usd=Decimal("0.001"))
    assert "does not cover the drafts of all rows" in str(done.stopped)
    assert output(cascade, 50, tmp_path / "j") == b""
    more = await run(cascade, 50, tmp_path / "j", budget_usd=Decimal("0.1"))
    assert (more.answered, more.stopped) == (50, None)
    assert set(models.asked.values()) == {1}


async def test_a_sample_that_takes_most_of_the_money_is_refused_before_it_is_asked(
    tmp_path: Path,
) -> None:
    models = Models()
    cascade = pair(models, calibrated=False)
    done = await run(cascade, 40, tmp_path / "j", sample=30, budget_usd=budget(40, 0.2))
    assert "a sample of 30 rows may cost" in str(done.stopped)
    assert {model for model, _ in models.asked} == {"small"}


@pytest.mark.parametrize(
    ("options", "asked", "complaint"),
    [
        ({}, {}, "a plan needs a budget, or the price of an error"),
        ({"calibrated": False}, {"budget_usd": Decimal(1)}, "no probability yet"),
        ({"calibrated": False}, {"budget_usd": Decimal(1), "sample": 7}, "sample=7: a calibration"),
        ({"policy": ThresholdPolicy(0.5)}, {"budget_usd": Decimal(1)}, "policy decides about each"),
        ({"abort": True}, {"budget_usd": Decimal(1)}, "abort=True"),
        ({"verifier": lambda q, a: True}, {"budget_usd": Decimal(1)}, "verifier="),
        ({"mode": "shadow", "ledger": MemoryLedger()}, {"budget_usd": Decimal(1)}, "mode='shadow'"),
        ({}, {"budget_usd": Decimal(1), "concurrency": 0}, "concurrency=0"),
        ({}, {"budget_usd": Decimal(1), "sample": 9, "scorer": "no"}, "there is no scorer"),
    ],
)
async def test_what_cannot_be_planned_is_refused_with_a_way_out(
    tmp_path: Path, options: dict[str, Any], asked: dict[str, Any], complaint: str
) -> None:
    models = Models()
    options = {"calibrated": True, **options}
    with pytest.raises(ConfigurationError, match=complaint):
        await run(pair(models, **options), 5, tmp_path / "j", **asked)
    assert not models.asked


async def test_a_calibration_that_judges_no_draft_is_named(tmp_path: Path) -> None:
    models = Models()
    cascade = pair(models)
    other = cascade.calibration
    assert other is not None
    strange = other.model_copy(update={"system_hash": "of another system message"})
    cascade = pair(models, calibrated=False, calibrator=strange)
    with pytest.raises(ConfigurationError, match="made with another system message"):
        await run(cascade, 5, tmp_path / "j", budget_usd=Decimal(1))


async def test_rows_that_cannot_be_read_leave_nothing_to_plan(tmp_path: Path) -> None:
    cascade = pair(Models(), calibrated=False)
    with Journal(tmp_path / "j", planned_with(made_with(cascade), 30, "exact")) as journal:
        unread = [Row(n, {}, problem="no JSON") for n in range(3)]
        asked: dict[str, Any] = {"sample": 30, "budget_usd": Decimal(1)}
        done = await plan_job(cascade, lambda: unread, journal, **asked)
    assert (done.failed, done.drafted, done.stopped) == (3, 0, None)


async def test_the_output_has_the_columns_of_the_plan(tmp_path: Path) -> None:
    cascade = pair(Models())
    await run(cascade, 3, tmp_path / "j", budget_usd=Decimal(1))
    lines = [json.loads(line) for line in output(cascade, 3, tmp_path / "j").splitlines()]
    assert [list(line)[-4:] for line in lines] == [["rank", "gain", "expected_usd", "reason"]] * 3
