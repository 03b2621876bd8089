"""Collecting examples: what is asked, what is written, what it costs, what is tried again."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, Price, Tier
from cascade.collect import (
    AlwaysEscalate,
    Collected,
    collect,
    expected_cost,
    labelled_drafts,
    made_for,
    read_examples,
)
from cascade.collect.collecting import GIVE_UP_AFTER
from cascade.errors import (
    AuthenticationError,
    CascadeError,
    ConfigurationError,
    ContextLengthError,
    ModelError,
)
from cascade.evaluation.scorers import JudgeScorer, get_scorer
from cascade.evaluation.transcripts import Transcript, TranscriptWriter, read_transcripts
from cascade.graph import DEFAULT_RETRY
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

SMALL, LARGE = "scripted:s", "scripted:l"
PRICE = Price(input=1, output=1)


def examples_file(folder: Path, *rows: Any) -> Path:
    path = folder / "examples.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def capitals(n: int) -> list[dict[str, Any]]:
    return [{"question": f"Capital {i}?", "reference": f"city {i}"} for i in range(n)]


def knows(request: Request) -> Completion:
    """Right on even numbers."""
    number = int(request.messages[-1].text.split()[1].rstrip("?"))
    return reply(f"city {number if number % 2 == 0 else 99}", probability=0.7)


def always_right(request: Request) -> Completion:
    return reply("city " + request.messages[-1].text.split()[1].rstrip("?"))


class House:
    """A cascade for collecting, with a file to collect into."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.small = options.pop("small", ScriptedModel(knows, name="s", returns_logprobs=True))
        self.large = options.pop("large", ScriptedModel(always_right, name="l"))
        tier = options.pop("tier", {})
        self.cascade = Cascade(
            Tier(self.small, price=PRICE, **tier),
            Tier(self.large, price=Price(input=100, output=100), **tier),
            policy=AlwaysEscalate(),
            retry_policy=DEFAULT_RETRY._replace(max_attempts=1),
            **{"signals": ["logprobs", "text"], **options},
        )
        self.path = folder / "work.jsonl"

    async def collect(self, *rows: Any, scorer: Any = "exact", **options: Any) -> Collected:
        examples = read_examples(examples_file(self.folder, *rows))
        compare = get_scorer(scorer) if isinstance(scorer, str) else scorer
        with TranscriptWriter(self.path) as writer:
            return await collect(examples, self.cascade, compare, writer, **options)

    @property
    def rows(self) -> list[Transcript]:
        return sorted(read_transcripts(self.path), key=lambda row: row.id)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_every_model_answers_and_is_scored(house: House) -> None:
    done = await house.collect(*capitals(4))
    assert (done.written, done.skipped, done.unlabelled, done.failures) == (4, 0, 0, {})
    assert [row.models[SMALL].correct for row in house.rows] == [1, 0, 1, 0]
    assert [row.models[LARGE].correct for row in house.rows] == [1, 1, 1, 1]
    row = house.rows[0]
    assert (row.id, row.prompt, row.reference) == ("1", "Capital 0?", "city 0")
    small, large = row.models[SMALL], row.models[LARGE]
    assert small.cost_usd == pytest.approx(12e-6)
    assert large.cost_usd == pytest.approx(12e-4)
    assert small.features["logprob_mean"] == pytest.approx(-0.357, abs=0.001)
    assert small.confidence is not None
    assert small.check_cost_usd == 0
    assert done.ledger.cost_usd == 4 * Decimal("0.001212")


async def test_what_paid_signals_cost_is_kept_beside_the_drafts_own_cost(tmp_path: Path) -> None:
    small = ScriptedModel([reply("True", probability=0.9)], name="s")
    house = House(tmp_path, small=small, signals=["p_true"])
    await house.collect(*capitals(1))
    outcome = house.rows[0].models[SMALL]
    assert outcome.cost_usd == pytest.approx(11e-6)
    assert outcome.check_cost_usd == pytest.approx(11e-6)


async def test_a_check_without_a_price_costs_nobody_knows_what(tmp_path: Path) -> None:
    unknown = reply("True", probability=0.9, input_tokens=None)
    house = House(tmp_path, small=ScriptedModel([unknown], name="s"), signals=["p_true"])
    await house.collect(*capitals(1))
    outcome = house.rows[0].models[SMALL]
    assert outcome.check_cost_usd is None
    assert outcome.cost_usd is None


async def test_what_is_done_is_not_asked_again(house: House) -> None:
    await house.collect(*capitals(2))
    done = await house.collect(*capitals(5))
    assert (done.written, done.skipped) == (3, 2)
    assert len(house.large.requests) == 5


async def test_no_more_examples_are_under_way_than_was_said(tmp_path: Path) -> None:
    class Counting(ScriptedModel):
        running = most = 0

        async def _complete(self, request: Request) -> Completion:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.005)
            self.running -= 1
            return await super()._complete(request)

    house = House(tmp_path, large=Counting(always_right, name="l"))
    await house.collect(*capitals(20), concurrency=3)
    assert house.large.most == 3
    with pytest.raises(ConfigurationError, match="concurrency=0"):
        await house.collect(*capitals(20), concurrency=0)


async def test_progress_is_told_after_each_example(house: House) -> None:
    seen: list[int] = []
    await house.collect(*capitals(3), progress=lambda done: seen.append(done.written))
    assert seen == [1, 2, 3]


def failing(error: Exception, on: str) -> Any:
    """A model that fails on one question."""
    return lambda request: error if on in request.messages[-1].text else always_right(request)


@pytest.mark.parametrize("who", ["small", "large"])
async def test_an_example_that_fails_is_named_and_tried_again(tmp_path: Path, who: str) -> None:
    error = ContextLengthError("too long", model="m")
    model = ScriptedModel(failing(error, "Capital 1?"), name=who[0], returns_logprobs=True)
    house = House(tmp_path, **{who: model})
    done = await house.collect(*capitals(3))
    assert done.written == 2
    assert list(done.failures) == ["2"]
    assert f"the {who} model gave no" in done.failures["2"]
    assert "too long" in done.failures["2"]
    assert [row.id for row in house.rows] == ["1", "3"]
    model._answers = always_right
    assert (await house.collect(*capitals(3))).written == 1


async def test_the_draft_is_never_taken_for_the_large_models_answer(tmp_path: Path) -> None:
    """The graph falls back on the draft; a transcript of that would be a lie."""
    large = ScriptedModel([AuthenticationError("wrong key", model="l")], name="l")
    house = House(tmp_path, large=large)
    done = await house.collect(*capitals(2))
    assert len(done.failures) == 2
    assert house.rows == []


async def test_what_failed_examples_cost_is_counted(tmp_path: Path) -> None:
    large = ScriptedModel([AuthenticationError("wrong key", model="l")], name="l")
    small = ScriptedModel([""], name="s", logprobs=0.9)  # nothing to fall back on: it raises
    done = await House(tmp_path, small=small, large=large).collect(*capitals(1))
    assert [entry.node for entry in done.entries] == ["draft", "self_check", "verify", "expert"]


async def test_when_nothing_succeeds_it_stops_and_shows_the_bill(tmp_path: Path) -> None:
    large = ScriptedModel([AuthenticationError("wrong key", model="l")], name="l")
    house = House(tmp_path, large=large)
    with pytest.raises(CascadeError, match=r"first 20 examples all failed.*wrong key") as caught:
        await house.collect(*capitals(200), concurrency=1)
    assert len(large.requests) == GIVE_UP_AFTER
    assert caught.value.ledger is not None
    assert len(caught.value.ledger.entries) >= 4 * GIVE_UP_AFTER


async def test_an_error_of_the_program_stops_the_other_examples(tmp_path: Path) -> None:
    house = House(tmp_path, large=ScriptedModel(failing(KeyError("bug"), "Capital 0?"), name="l"))
    with pytest.raises(KeyError):
        await house.collect(*capitals(50), concurrency=2)
    assert len(house.large.requests) < 10


# Who says what is right


async def test_what_nobody_can_judge_is_not_even_asked(house: House) -> None:
    done = await house.collect({"question": "Capital 0?"}, *capitals(1))
    assert (done.unlabelled, done.written) == (1, 1)
    assert len(house.small.requests) == 1


async def test_answers_that_people_have_judged(house: House) -> None:
    labels = {" city 99 ": False, "city 1": True}
    done = await house.collect(
        {"question": "Capital 1?", "labels": labels},
        {"question": "Capital 2?", "labels": {"city 3": True}},
    )
    assert (done.written, done.unlabelled) == (1, 1)
    (row,) = house.rows
    assert (row.models[SMALL].correct, row.models[LARGE].correct) == (0, 1)


async def test_agreement_with_the_large_model(house: House) -> None:
    rows = [{"question": f"Capital {i}?"} for i in range(3)]
    await house.collect(*rows, agree_with_large=True)
    assert [row.models[SMALL].correct for row in house.rows] == [1, 0, 1]
    assert [row.models[LARGE].correct for row in house.rows] == [1, 1, 1]
    assert house.rows[1].reference == "city 1"


async def test_nobody_agrees_with_an_empty_answer(tmp_path: Path) -> None:
    house = House(tmp_path, large=ScriptedModel([" "], name="l"))
    done = await house.collect({"question": "Capital 1?"}, agree_with_large=True)
    assert (done.written, done.unlabelled) == (0, 1)


async def test_a_reference_that_cannot_be_compared_costs_nothing(house: House) -> None:
    done = await house.collect({"question": "Capital 0?", "reference": {"a": 1}}, *capitals(1))
    assert list(done.failures) == ["1"]
    assert len(house.small.requests) == 1


def judge(*answers: Any) -> JudgeScorer:
    model = ScriptedModel(list(answers), name="judge", local=False)
    model.provider, model.model = "openai", "gpt-5.1"
    return JudgeScorer(model)


async def test_what_a_judge_costs_is_in_the_ledger(house: House) -> None:
    done = await house.collect(*capitals(1), scorer=judge(reply("CORRECT", output_tokens=1)))
    scored = [entry for entry in done.entries if entry.node == "score"]
    assert [(entry.tier, entry.model) for entry in scored] == [("judge", "openai:gpt-5.1")] * 2
    assert [entry.cost_usd for entry in scored] == [Decimal("0.0000225")] * 2
    assert {entry.run_id for entry in done.entries} == {scored[0].run_id}
    assert done.ledger.cost_usd == Decimal("0.001212") + 2 * Decimal("0.0000225")


async def test_a_judge_that_fails_is_booked_and_its_example_tried_again(house: House) -> None:
    failure = ModelError("broken", model="j", billed=None)
    done = await house.collect(*capitals(1), scorer=judge(failure))
    assert done.failures == {"1": "broken"}
    assert [(e.node, e.cost_usd) for e in done.entries][-1] == ("score", None)


async def test_a_judge_without_a_verdict_leaves_the_row_out(house: House) -> None:
    done = await house.collect(*capitals(1), scorer=judge("Who knows?"))
    assert (done.written, done.unlabelled) == (0, 1)


async def test_a_judge_is_not_asked_whether_the_large_model_agrees_with_itself(
    house: House,
) -> None:
    scorer = judge("CORRECT")
    await house.collect({"question": "Capital 1?"}, scorer=scorer, agree_with_large=True)
    assert isinstance(scorer.model, ScriptedModel)
    assert len(scorer.model.requests) == 1


# Going on


async def test_answers_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    await House(tmp_path).collect(*capitals(2))
    other = House(tmp_path, tier={"max_tokens": 5})
    with pytest.raises(ConfigurationError, match=r"another setting \(small, large\).*--work"):
        await other.collect(*capitals(3))
    with pytest.raises(ConfigurationError, match=r"another setting \(scorer\)"):
        await House(tmp_path).collect(*capitals(3), scorer="contains")
    with pytest.raises(ConfigurationError, match=r"another setting \(scorer\)"):
        await House(tmp_path).collect(*capitals(3), agree_with_large=True)
    with pytest.raises(ConfigurationError, match=r"another setting \(signals\)"):
        await House(tmp_path, signals=["logprobs"]).collect(*capitals(3))
    assert other.large.requests == []


async def test_answers_to_other_questions_are_not_mixed(house: House) -> None:
    await house.collect(*capitals(2))
    with pytest.raises(ConfigurationError, match="answers another question, 'Capital 0"):
        await house.collect({"question": "Capital 7?", "reference": "x"})


async def test_answers_of_other_models_are_not_mixed(tmp_path: Path) -> None:
    await House(tmp_path).collect(*capitals(2))
    other = House(tmp_path, large=ScriptedModel("x", name="other"))
    with pytest.raises(ConfigurationError, match="is of scripted:s and scripted:l"):
        await other.collect(*capitals(2))


async def test_a_file_of_somebody_elses_can_be_continued(house: House) -> None:
    await house.collect(*capitals(1))
    row = json.loads(house.path.read_text())
    del row["made_with"]
    house.path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "old"}) + "\n")
    assert (await house.collect(*capitals(2))).written == 1


async def test_examples_are_collected_with_two_tiers(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.cascade = Cascade(tiers=[ScriptedModel("x")], policy=AlwaysEscalate())
    with pytest.raises(ConfigurationError, match="a small and a large model"):
        await house.collect(*capitals(1))


async def test_one_model_for_both_is_refused(tmp_path: Path) -> None:
    house = House(tmp_path, large=ScriptedModel("x", name="s"))
    with pytest.raises(ConfigurationError, match="both scripted:s"):
        await house.collect(*capitals(1))


# What a calibration is fitted to


async def test_drafts_with_their_labels_are_read_again(house: House) -> None:
    await house.collect(*capitals(2))
    drafts = sorted(labelled_drafts(house.path, house.cascade), key=lambda draft: -draft.correct)
    assert [(draft.correct, draft.large_correct) for draft in drafts] == [(1, 1), (0, 1)]
    assert "logprob_mean" in drafts[0].features


async def test_a_recording_keeps_the_system_message_it_was_made_with(house: House) -> None:
    messages = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Capital 0?"}]
    rows = [{"messages": messages, "reference": "city 0"}]
    await house.collect(*rows)
    examples = read_examples(examples_file(house.folder, *rows))
    asked = await made_for(house.cascade, examples, "references")
    recorded = await made_for(house.cascade, [], "references", recorded=house.path)
    assert asked == recorded
    assert asked.system_hash is not None


async def test_several_system_messages_bind_to_none(house: House) -> None:
    spoken = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Capital 0?"}]
    rows = [{"messages": spoken, "reference": "city 0"}, *capitals(1)]
    await house.collect(*rows)
    recorded = await made_for(house.cascade, [], "references", recorded=house.path)
    assert recorded.system_hash is None


async def test_a_recording_of_other_settings_is_refused(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.collect(*capitals(1))
    other = House(tmp_path, tier={"temperature": 0}).cascade
    with pytest.raises(ConfigurationError, match="the same --max-tokens and --temperature"):
        await made_for(other, [], "references", recorded=house.path)


# Examples


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", ":2: "),
        ("[1]", ":2: it is not a JSON object"),
        ('{"reference": "x"}', ":2: it has neither 'question' nor 'messages'"),
        ('{"question": ""}', ":2: the question is empty"),
        ('{"question": 7}', ":2: the question is of type int"),
        ('{"question": "?", "labels": {"a": "yes"}}', ":2: labels maps answers to true or false"),
        ('{"question": "?", "labels": ["a"]}', ":2: labels maps"),
        ('{"question": "?", "id": 1}', "two examples have the id '1'"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        read_examples(examples_file(tmp_path, {"question": "good?"}, line))


def test_files_that_hold_no_examples(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_examples(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="has no examples"):
        read_examples(examples_file(tmp_path, "", " "))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"question": "é"}'.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"not UTF-8 \(byte 14\)"):
        read_examples(latin)


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    """JSON leaves U+2028 and its like as they are in text; they end no line of the file."""
    path = tmp_path / "examples.jsonl"
    path.write_bytes('\ufeff{"question": "a\u2028b\x85c"}\r\n{"prompt": "d"}\r\n'.encode())
    assert [example.question for example in read_examples(path)] == ["a\u2028b\x85c", "d"]


def test_the_cost_beforehand_counts_signals_and_is_unknown_without_a_price(house: House) -> None:
    examples = read_examples(examples_file(house.folder, *capitals(2)))
    small = house.cascade.tiers[:1]
    once = expected_cost(examples, small)
    assert once == Decimal("0.000436")
    assert expected_cost(examples, small, calls=3) == 3 * once
    free = Cascade(tiers=[ScriptedModel("x")]).tiers
    assert expected_cost(examples, free) is None


@pytest.mark.parametrize("taken", ["p_true", "p_true 0123456789ab"])
async def test_answers_to_a_check_in_other_words_fit_nothing(tmp_path: Path, taken: str) -> None:
    small = ScriptedModel([reply("True", probability=0.9)], name="s")
    house = House(tmp_path, small=small, signals=["p_true", "logprobs"])
    await house.collect(*capitals(1))
    row = json.loads(house.path.read_text())
    assert await made_for(house.cascade, (), "references", recorded=house.path)
    row["made_with"]["signals"] = ["logprobs", taken]
    house.path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigurationError, match="the check 'p_true' of example"):
        await made_for(house.cascade, (), "references", recorded=house.path)
