"""Export of lessons for training, in the forms that trainers read, and a status of a store.

Rows are TRL's conversational data sets (huggingface.co/docs/trl/dataset_formats): `messages`, or
`prompt` and `completion`, or `prompt`, `chosen` and `rejected`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cascade._numbers import to_number
from cascade.confidence import as_data, normalise, speaks_of_grading
from cascade.errors import ConfigurationError
from cascade.evaluation.recordings import read_examples, read_transcripts
from cascade.middleware.background import lot
from cascade.middleware.local_only import KEYS
from cascade.teaching.lessons import EVERYTHING, Lesson, LessonSelection, Terms, terms_of
from cascade.teaching.store import LessonStore

Form = Literal["messages", "prompt_completion", "preference"]
"""Columns of a training file."""

LEAST_WORDS = 4
"""Of a question that is looked for within a text: a shorter one stands in many by chance."""

MASK = "[…]"

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+?(?=[\u3040-\u9fff]|\b)")


@dataclass(slots=True)
class Exported:
    """Number of lessons that were looked at, of rows by file, that of training first, and of
    lessons that were left out, by reason."""

    lessons: int = 0
    rows: dict[Path, int] = field(default_factory=dict)
    removed: Counter[str] = field(default_factory=Counter)


def evaluation_questions(paths: Iterable[str | Path]) -> list[str]:
    """The questions of files of transcripts or of examples."""
    found: list[str] = []
    for path in paths:
        try:
            found += [row.prompt for row in read_transcripts(path)]
        except ConfigurationError:
            found += [example.question for example in read_examples(path)]
    return found


async def export(
    store: LessonStore,
    path: str | Path,
    *,
    form: Form = "messages",
    validation: float = 0.1,
    selection: LessonSelection = EVERYTHING,
    evaluation: Sequence[str] = (),
) -> Exported:
    """Write lessons whose terms permit it to a training file, without duplicates and without what
    an evaluation asks.

    Args:
        path: of the training file; that of validation has `.validation` before its ending.
        form: columns of the file.
        validation: share of the lessons for the validation file, drawn by their questions; 0 for
            no such file.
        evaluation: questions that no row may hold, word for word.

    Raises:
        ConfigurationError: a value is out of its range, nothing is left to write, or a file cannot
            be written.
    """
    to_number("validation", validation, least=0, below=1)
    done, chosen = Exported(), dict[str, Lesson]()
    stated, is_asked = await store.terms(), _in_evaluation(evaluation)
    async for lesson in store.lessons(selection):
        done.lessons += 1
        why = _unfit(lesson, form, stated) or ("in the evaluation" if is_asked(lesson) else None)
        if why is not None:
            done.removed[why] += 1
            continue
        earlier = chosen.get(lesson.digest)
        if earlier is not None:
            done.removed["duplicate"] += 1
        if earlier is None or earlier.answer_is_wrong is not False:  # the newest, else the best
            chosen[lesson.digest] = lesson
    drawn = {digest for digest in chosen if lot(digest, "validation") < validation}
    training = [lesson for digest, lesson in chosen.items() if digest not in drawn]
    if not training:
        why = "; ".join(f"{reason}: {n:,}" for reason, n in done.removed.most_common())
        raise ConfigurationError(
            f"of {done.lessons:,} lessons none is left to train on ({why or 'there are none'}). "
            "Where terms are missing, state them: store.state_terms(model, Terms(may_train=True, "
            "source=…)), or `cascade lessons terms`."
        )
    place = Path(path)
    held_out = place.with_name(f"{place.stem}.validation{place.suffix}")
    for file, lessons in ((place, training), (held_out, [chosen[digest] for digest in drawn])):
        _write(file, [row_of(lesson, form) for lesson in lessons])
        if lessons:
            done.rows[file] = len(lessons)
    return done


def row_of(lesson: Lesson, form: Form) -> dict[str, Any]:
    """A lesson as a row of a file, with secrets masked and control tokens spelled out."""
    asked = [{**message, "content": message.get("content") or ""} for message in lesson.messages]
    good: dict[str, Any] = {"role": "assistant", "content": lesson.answer}
    if lesson.tool_calls:
        good["tool_calls"] = list(lesson.tool_calls)
    bad = {"role": "assistant", "content": lesson.draft or ""}
    if (lesson.loss or 0) < 0:
        good, bad = bad, good
    row: dict[str, Any] = {"prompt": asked, "chosen": [good], "rejected": [bad]}
    if form == "messages":
        row = {"messages": [*asked, good]}
    elif form == "prompt_completion":
        row = {"prompt": asked, "completion": [good]}
    cleaned: dict[str, Any] = _cleaned(row)
    return cleaned


def _cleaned(value: Any, key: str = "") -> Any:
    if isinstance(value, str):
        is_text = key in ("content", "arguments")
        return KEYS.sub(MASK, as_data(value)) if is_text else value
    if isinstance(value, Mapping):
        return {name: _cleaned(v, name) for name, v in value.items() if v is not None}
    return [_cleaned(each, key) for each in value] if isinstance(value, list | tuple) else value


def _unfit(lesson: Lesson, form: Form, stated: Mapping[str, Terms]) -> str | None:
    """Reason why a lesson must not be trained on; None where it may."""
    preference, draft = form == "preference", lesson.draft or ""
    may = lesson.may_train(stated)
    of_draft = not preference or terms_of(lesson.draft_model, stated).may_train
    texts = [str(message.get("content") or "") for message in lesson.messages]
    trained = [lesson.answer, *map(str, lesson.tool_calls), *([draft] if preference else [])]
    alike = not lesson.tool_calls and normalise(draft) == normalise(lesson.answer)
    unknown = lesson.loss is None and lesson.origin == "audited"
    spoken = any(message.get("role") == "assistant" for message in lesson.messages)
    reasons = {
        "terms forbid training": may is False,
        "terms of training are not stated": may is None,
        "terms of the draft's model do not permit training": not of_draft,
        "people say that the answer is wrong": bool(lesson.answer_is_wrong),
        "an audit found the draft better": not preference and (lesson.loss or 0) < 0,
        "the answer is empty": not lesson.answer.strip() and not lesson.tool_calls,
        # They would be trained on, too.
        "earlier answers of unknown origin": form == "messages" and spoken,
        "it speaks to a grader": any(map(speaks_of_grading, [*texts, *trained])),
        "the answer holds a secret": any(MASK in t or KEYS.search(t) for t in trained),
        "there is no draft": preference and not draft.strip(),
        "draft and answer are as good": preference and (alike or lesson.loss == 0),
        "it is not known which is better": preference and unknown,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _in_evaluation(questions: Iterable[str]) -> Callable[[Lesson], bool]:
    """What tells whether a lesson holds a question of an evaluation: as its own question, or
    anywhere in its texts, in the same words."""
    asked = {_words(question) for question in questions} - {""}
    by_start = defaultdict[tuple[str, ...], list[str]](list)
    for question in asked:
        for start in list(_starts(question))[:1]:
            by_start[start].append(question)

    def is_asked(lesson: Lesson) -> bool:
        texts = [str(message.get("content") or "") for message in lesson.messages]
        said = _words("\n".join([*texts, lesson.answer, lesson.draft or ""]))
        near = (question for start in _starts(said) for question in by_start.get(start, ()))
        return _words(lesson.question) in asked or any(question in said for question in near)

    return is_asked


def _starts(words: str) -> Iterator[tuple[str, ...]]:
    """Each `LEAST_WORDS` words in a row: a question may begin with them."""
    found = words.split()
    return zip(*(found[n:] for n in range(LEAST_WORDS)), strict=False)


def _words(text: str) -> str:
    """Words without case and punctuation, with spaces around each; where a script has no spaces, a
    character is a word."""
    return "".join(f" {word} " for word in _WORD.findall(text.casefold())).replace("  ", " ")


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all of a file or nothing; without rows there is none, also of an earlier export."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        if not rows:
            path.unlink(missing_ok=True)
            return
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class Status:
    """Numbers of lessons of a store, and of those whose answer people judged; by large model, of
    those that `may_train`, and whose terms are `not_stated`, by the terms of today."""

    lessons: int
    said_right: int
    said_wrong: int
    models: Mapping[str, Mapping[str, int]]


async def status_of(store: LessonStore) -> Status:
    """The status of a store."""
    stated, judged = await store.terms(), Counter[bool | None]()
    models = defaultdict[str, Counter[str]](Counter)
    async for lesson in store.lessons():
        judged[lesson.answer_is_wrong] += 1
        may, counts = lesson.may_train(stated), models[lesson.answer_model]
        counts["lessons"] += 1
        counts["may_train"] += may is True
        counts["not_stated"] += may is None
    counted = {model: dict(counts) for model, counts in models.items()}
    return Status(judged.total(), judged[False], judged[True], counted)
