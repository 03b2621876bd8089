"""Training files: what is in them, what is not, and that trainers can read them."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cascade.cli import app
from cascade.errors import ConfigurationError
from cascade.ledger import Feedback
from cascade.teaching import Lesson, LessonSelection, LessonStore, Terms, open_lessons
from cascade.teaching.card import card_of
from cascade.teaching.choosing import Candidate, candidate
from cascade.teaching.exporting import ExportOptions, choose, export
from cascade.teaching.forms import ROWS, Form
from cascade.teaching.overlap import Asked, Evaluated, jaccard, joined, near_pairs, words_of
from tests.teaching.making import lesson

ALLOWED = {
    "openai:*": Terms(may_train=True, source="contract"),
    "ollama:*": Terms(may_train=True, source="licence"),
}
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "glade", "heron")
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"x": 1}'}}


def unlike(number: int) -> str:
    """A question that has no three words in a row with any other one."""
    draws = random.Random(number)
    return " ".join(f"{draws.choice(WORDS)}{number * 7 + n}" for n in range(9)) + "?"


def taught(number: int, question: str | None = None, **fields: Any) -> Lesson:
    return lesson(f"r{number}", question or unlike(number), answer=f"It is {number}.", **fields)


async def filled(store: LessonStore, lessons: Sequence[Lesson]) -> None:
    for model, terms in ALLOWED.items():
        await store.state_terms(model, terms)
    for one in lessons:
        assert await store.put(one)


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def written(store: LessonStore, folder: Path, *evaluation: str, **options: Any) -> Any:
    return await export(
        store, folder / "train.jsonl", ExportOptions(**options), evaluation, card=card_of
    )


EVALUATED = (
    "How long may a parcel wait at the counter before it is sent back to whoever sent it?",
    "What is the capital of Australia?",
    "Which of the three harbours has the deepest basin?",
)
HIDDEN = (
    "how long may a parcel WAIT at the counter, before it is sent back to whoever sent it",
    "Please say how long may a parcel wait at the counter before it goes back",
    "What's the capital of Australia?",
    "Answer in one word: what is the capital of Australia? Thank you.",
    "Which of the three harbours has the deepest basin, please?",
    "which of the three harbours has the very deepest basin",
)


async def test_no_evaluation_item_nor_anything_near_one_is_exported(
    memory: LessonStore, tmp_path: Path
) -> None:
    planted = [*EVALUATED, *HIDDEN]
    lessons = [taught(number) for number in range(40)]
    lessons += [taught(100 + n, text) for n, text in enumerate(planted)]
    quoting = f"Somebody asked: {EVALUATED[0]}"
    lessons.append(taught(200).model_copy(update={"answer": quoting}))
    await filled(memory, lessons)
    done, files = await written(memory, tmp_path, *EVALUATED)
    assert len(done.rows) == 40
    removed = sum(n for why, n in done.removed.items() if why.startswith("in the evaluation"))
    assert removed == len(planted) + 1
    said = [" ".join(words_of(p.read_text())) for p in files.values() if p.suffix == ".jsonl"]
    for word in ("parcel", "australia", "harbours"):
        assert not any(word in text for text in said)
    without = await choose(memory, ExportOptions())
    assert len(without.rows) > 40, "else the test plants nothing"


@pytest.mark.parametrize("form", list(ROWS))
async def test_rows_are_what_trainers_read(memory: LessonStore, tmp_path: Path, form: Form) -> None:
    asked: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": unlike(1)},
    ]
    calling = taught(2).model_copy(update={"tool_calls": (CALL,), "answer": ""})
    lessons = [taught(1, messages=tuple(asked), draft_model="ollama:s"), calling]
    await filled(memory, lessons)
    _, files = await written(memory, tmp_path, form=form, validation=0)
    rows = rows_in(files["training"])
    for row in rows:
        assert ROWS[form].model_validate(row).model_dump(exclude_none=True) == row
    answer = {"role": "assistant", "content": "It is 1."}
    expected: dict[Form, dict[str, Any]] = {
        "messages": {"messages": [*asked, answer]},
        "prompt_completion": {"prompt": asked, "completion": [answer]},
        "preference": {
            "prompt": asked,
            "chosen": [answer],
            "rejected": [{"role": "assistant", "content": "5"}],
        },
    }
    assert expected[form] in rows
    last = [next(reversed(row.values()))[-1] for row in rows]
    if form != "preference":
        assert {"role": "assistant", "content": "", "tool_calls": [CALL]} in last
    card = files["card"].read_text()
    assert f"| train.jsonl | {len(rows)} |" in card
    assert f"| openai:gpt-5.1 | {len(rows)} | permitted, as stated | contract |" in card


@pytest.mark.parametrize(
    ("fields", "form", "why"),
    [
        ({"answer_model": "anthropic:x"}, "messages", "terms of training are not stated"),
        ({"terms": Terms(may_train=False)}, "messages", "terms forbid training"),
        ({"draft_model": "gguf:x"}, "preference", "terms of the draft's model"),
        ({"loss": -1.0, "origin": "audited"}, "messages", "an audit found the draft better"),
        ({"loss": 0.0, "origin": "audited"}, "preference", "as good"),
        ({"origin": "audited"}, "preference", "nobody knows which is better"),
        ({"draft": "4."}, "preference", "as good"),
        ({"draft": None}, "preference", "there is no draft"),
        ({"answer": " "}, "messages", "the answer is empty"),
        ({"answer": "This answer was verified."}, "messages", "speaks to whoever checks"),
        ({"answer": "Write to ada@example.org"}, "messages", "holds a secret"),
        ({"answer": "The number is […]"}, "messages", "holds a secret"),
        ({"draft": "Write to ada@example.org"}, "preference", "holds a secret"),
        (
            {"messages": ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})},
            "messages",
            "earlier answers of unknown origin",
        ),
        ({"messages": ({"role": "judge", "content": "a"},)}, "messages", "in no form"),
    ],
)
def test_what_may_not_be_trained_on(fields: dict[str, Any], form: Form, why: str) -> None:
    found = candidate(lesson(**fields), form, ALLOWED)
    assert isinstance(found, str)
    assert why in found


async def test_what_users_call_wrong_is_left_out(memory: LessonStore) -> None:
    await filled(memory, [taught(1), taught(2)])
    await memory.judge(Feedback(run_id="r1", correct=False))
    done = await choose(memory, ExportOptions(validation=0))
    assert [each.lesson.run_id for each in done.train] == ["r2"]
    assert done.removed["users say that the answer is wrong"] == 1


def test_a_better_draft_is_turned_round_and_secrets_are_masked() -> None:
    given = lesson("r1", "Ada <s> ada@example.org asks", loss=-0.5, origin="audited", draft="7")
    found = candidate(given, "preference", ALLOWED)
    assert isinstance(found, Candidate)
    assert found.turned
    assert found.masked
    assert found.row["chosen"][0]["content"] == "7"
    assert found.row["rejected"][0]["content"] == "4"
    assert found.row["prompt"][0]["content"] == "Ada < s> […] asks"


async def test_of_duplicates_one_is_kept_the_one_that_a_user_says_is_right(
    memory: LessonStore,
) -> None:
    long = unlike(5)
    near = [taught(n, f"{long} {unlike(6)} {n}").model_copy(update={"answer": "x"}) for n in (3, 4)]
    await filled(memory, [taught(1, "Same?"), taught(2, " same? "), *near])
    await memory.judge(Feedback(run_id="r1", correct=True))
    done = await choose(memory, ExportOptions(validation=0))
    kept = {each.lesson.run_id for each in done.train}
    assert "r1" in kept
    assert len(kept) == 2
    assert (done.removed["duplicate"], done.removed["near duplicate"]) == (1, 1)


async def test_what_is_linked_is_in_one_split_and_a_seed_gives_the_same(
    memory: LessonStore,
) -> None:
    stems = [unlike(number) for number in range(30)]
    lessons = [taught(n, f"{stems[n % 30]} part {n // 30}") for n in range(90)]
    await filled(memory, lessons)
    done = await choose(memory, ExportOptions(validation=0.2))
    assert 10 <= len(done.validation) <= 18
    stem_of = {one.run_id: int(one.run_id[1:]) % 30 for one in lessons}
    first, second = ({stem_of[c.lesson.run_id] for c in p} for p in (done.train, done.validation))
    assert not first & second
    again = await choose(memory, ExportOptions(validation=0.2))
    assert [c.row for c in again.rows] == [c.row for c in done.rows]
    other = await choose(memory, ExportOptions(validation=0.2, seed=1))
    assert [c.row for c in other.validation] != [c.row for c in done.validation]


async def test_groups_and_tasks_are_balanced(memory: LessonStore) -> None:
    many = [taught(n, f"How many days may guest number {n} wait here") for n in range(20)]
    await filled(memory, [*many, taught(50), taught(51, task="other")])
    options: dict[str, Any] = {"near": 1.0, "validation": 0.0}
    done = await choose(memory, ExportOptions(most_per_group=3, **options))
    assert len(done.train) == 5
    assert done.removed["more than 3 of a group"] == 17
    done = await choose(memory, ExportOptions(most_per_task=2, **options))
    assert len(done.train) == 3


async def test_files_are_noted_and_what_is_deleted_meanwhile_is_not_written(
    memory: LessonStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(memory, [taught(n, user="ada" if n else "bob") for n in range(10)])
    note = memory.note_export

    async def deletes(*given: Any, **named: Any) -> None:
        await memory.delete(LessonSelection(user="bob"))
        await note(*given, **named)

    monkeypatch.setattr(memory, "note_export", deletes)
    done, files = await written(memory, tmp_path)
    assert unlike(0) not in "".join(p.read_text() for p in files.values())
    assert done.removed["deleted meanwhile"] == 1
    noted = [(e.purpose, Path(e.path).name) for e in await memory.exports()]
    assert noted == [("training", "train.jsonl"), ("validation", "train.validation.jsonl")]
    gone = await memory.delete(LessonSelection(user="ada"))
    assert {Path(path) for path in gone.exports} == {files["training"], files["validation"]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "x"}, "form='x'"),
        ({"near": 0}, "near=0"),
        ({"evaluation_alike": 1.5}, "evaluation_alike=1.5"),
        ({"validation": 1}, "validation=1"),
        ({"ngram": 3}, "ngram=3"),
        ({"most_per_group": 0}, "most_per_group=0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        ExportOptions(**options)


def test_the_command_writes_files_and_says_what_it_left_out(
    sqlite_url: str, tmp_path: Path
) -> None:
    async def fill() -> None:
        async with open_lessons(sqlite_url) as store:
            await filled(store, [taught(n) for n in range(20)])
            await store.put(taught(30, EVALUATED[1]))

    asyncio.run(fill())
    examples = tmp_path / "rows.jsonl"
    examples.write_text(json.dumps({"question": EVALUATED[1], "reference": "Canberra"}) + "\n")
    output = str(tmp_path / "train.jsonl")
    command = ["teach", "export", sqlite_url, "--output", output, "--evaluation", str(examples)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["train"], told["validation"], told["lessons"]) == (18, 2, 21)
    assert told["removed"] == {"in the evaluation: the same": 1}
    plain = CliRunner().invoke(app, command)
    assert "left out: 1, in the evaluation: the same" in plain.stderr
    assert CliRunner().invoke(app, [*command, "--form", "x"]).exit_code == 2
    nowhere = ["teach", "export", sqlite_url, "--output", str(tmp_path / "no" / "x.jsonl")]
    assert CliRunner().invoke(app, nowhere).exit_code == 2


def test_without_terms_nothing_is_written(sqlite_url: str, tmp_path: Path) -> None:
    async def fill() -> None:
        async with open_lessons(sqlite_url) as store:
            await store.put(taught(1))

    asyncio.run(fill())
    output = tmp_path / "train.jsonl"
    done = CliRunner().invoke(app, ["teach", "export", sqlite_url, "--output", str(output)])
    assert done.exit_code == 2
    assert "terms of training are not stated: 1" in done.stderr
    assert not output.exists()


@given(
    st.lists(st.frozensets(st.integers(0, 12).map(lambda n: (str(n),)), max_size=8), max_size=20),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_all_near_pairs_are_found(sets: list[frozenset[tuple[str, ...]]], alike: float) -> None:
    every = itertools.combinations(range(len(sets)), 2)
    wanted = {(i, j) for i, j in every if jaccard(sets[i], sets[j]) >= alike}
    assert set(near_pairs(sets, alike)) == wanted


def test_a_form_that_is_in_many_lessons_is_no_evaluation_question() -> None:
    form = "For the record please state in full and with care the number of the box named"
    tests = Evaluated([f"{form} alder kite under the window of the old mill"], alike=1.0)
    texts = [Asked(f"{form} x{n} y{n}", f"{form} x{n} y{n}") for n in range(11)]
    assert tests.found_in(texts) == [None] * 11
    assert tests.found_in(texts[:10]) == ["words in a row"] * 10


def test_what_hangs_together_by_others_is_one() -> None:
    assert joined(6, [(0, 1), (3, 4), (1, 3)]) == [0, 0, 2, 0, 0, 5]
