"""Export of lessons for training: files of TRL's conversational types
(https://huggingface.co/docs/trl/dataset_formats), which other trainers read as well."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from cascade._numbers import to_number
from cascade.confidence.signals import as_data, normalise
from cascade.confidence.validity import speaks_of_grading
from cascade.errors import ConfigurationError
from cascade.middleware.background import lot
from cascade.middleware.local_only import KEYS
from cascade.models.http import GAP
from cascade.teaching.lessons import Lesson, LessonSelection, LessonStore, Terms, terms_of

Form = Literal["messages", "prompt_completion", "preference"]

LEAST_WORDS = 4
"""Of a question that is looked for within a text: a shorter one stands in many by chance."""

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+?(?=[\u3040-\u9fff]|\b)")
"""A word, or a character of those that are written without spaces."""


@dataclass(slots=True)
class Exported:
    """Numbers of lessons, of rows by file, that of training first, and of those removed, by why."""

    lessons: int = 0
    rows: dict[Path, int] = field(default_factory=dict)
    removed: Counter[str] = field(default_factory=Counter)


async def export(
    store: LessonStore,
    path: str | Path,
    *,
    form: Form = "messages",
    validation: float = 0.1,
    task: str | None = None,
    evaluation: Iterable[str] = (),
) -> Exported:
    """Write lessons whose terms permit it to a training file, without duplicates.

    Args:
        path: of the training file; that of validation has `.validation` before its ending.
        validation: share of the lessons for the validation file, drawn by their questions; 0 for
            no such file.
        evaluation: questions that no row may hold, word for word.

    Raises:
        ConfigurationError: a value is none of these, nothing is left, or it cannot be written.
    """
    to_number("validation", validation, least=0, below=1)
    if form not in get_args(Form):
        raise ConfigurationError(f"form={form!r}: give one of {', '.join(get_args(Form))}.")
    asked = {_words(question) for question in evaluation} - {_words("")}
    stated, done, fit = await store.terms(), Exported(), list[Lesson]()
    async for lesson in store.lessons(LessonSelection(task=task)):
        done.lessons += 1
        if (why := _unfit(lesson, form, stated, asked)) is None:
            fit.append(lesson)
        else:
            done.removed[why] += 1
    # Of duplicates the last is kept: one that people call right, else the newest.
    fit.sort(key=lambda lesson: lesson.answer_is_wrong is False)
    chosen = dict[str, Lesson]()
    for lesson in fit:  # spacing and capitals make no other conversation
        both = zip(lesson.texts, lesson.messages, strict=True)
        said = [(t.casefold().split(), m.get("role"), m.get("tool_calls")) for t, m in both]
        chosen[json.dumps(said, default=str)] = lesson
    done.removed += Counter({"duplicate": len(fit) - len(chosen)})
    first = Path(path)
    second = first.with_name(f"{first.stem}.validation{first.suffix}")
    files: dict[Path, list[str]] = {first: [], second: []}
    for key, lesson in chosen.items():
        row = json.dumps(row_of(lesson, form), ensure_ascii=False)
        files[second if lot(key, "validation") < validation else first].append(row)
    if not files[first]:
        why = "; ".join(f"{reason}: {n:,}" for reason, n in done.removed.most_common())
        told = f"of {done.lessons:,} lessons none is left to train on ({why or 'there are none'})"
        how = "`cascade lessons terms`, or store.state_terms(…)"
        raise ConfigurationError(f"{told}. Where terms are missing, state them: {how}.")
    try:
        for file, rows in files.items():
            aside = file.with_name(f".{file.name}.part")
            aside.write_text("\n".join([*rows, ""]), encoding="utf-8")
            aside.replace(file)  # a trainer never sees half of it
            if rows:
                done.rows[file] = len(rows)
            else:  # an earlier export may have had a second file
                file.unlink()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error
    return done


def row_of(lesson: Lesson, form: Form) -> dict[str, Any]:
    """A lesson as a row of a file, with secrets masked and control tokens spelled out."""
    asked = [{**message, "content": message.get("content") or ""} for message in lesson.messages]
    calls = {"tool_calls": list(lesson.tool_calls)} if lesson.tool_calls else {}
    good: dict[str, Any] = {"role": "assistant", "content": lesson.answer, **calls}
    bad = {"role": "assistant", "content": lesson.draft or ""}
    if (lesson.loss or 0) < 0:
        good, bad = bad, good
    rows: dict[Form, dict[str, Any]] = {
        "messages": {"messages": [*asked, good]},
        "prompt_completion": {"prompt": asked, "completion": [good]},
        "preference": {"prompt": asked, "chosen": [good], "rejected": [bad]},
    }
    return {column: _cleaned(value) for column, value in rows[form].items()}


def _cleaned(value: Any, key: str = "") -> Any:
    if isinstance(value, str):
        return KEYS.sub(GAP, as_data(value)) if key in ("content", "arguments") else value
    if isinstance(value, Mapping):
        return {name: _cleaned(v, name) for name, v in value.items() if v is not None}
    return [_cleaned(each, key) for each in value] if isinstance(value, list | tuple) else value


def _unfit(
    lesson: Lesson, form: Form, stated: Mapping[str, Terms], asked: Collection[str]
) -> str | None:
    """Reason why a lesson must not be trained on; None where it may."""
    draft, calls, may = lesson.draft or "", lesson.tool_calls, lesson.may_train(stated)
    pair, loss = form == "preference", lesson.loss
    trained = [lesson.answer, *map(str, calls), *([draft] if pair else [])]
    spoken = any(message.get("role") == "assistant" for message in lesson.messages)
    said = _words("\n".join([*lesson.texts, lesson.answer, draft]))
    held = any(q in said for q in asked if q.count(" ") > LEAST_WORDS)
    own = terms_of(lesson.draft_model, stated)
    alike = not calls and normalise(draft) == normalise(lesson.answer)
    reasons = {
        "terms forbid training": may is False,
        "terms of training are not stated": may is None,
        "people say that the answer is wrong": lesson.answer_is_wrong,
        "the answer is empty": not lesson.answer.strip() and not calls,
        # They would be trained on, too.
        "earlier answers of unknown origin": form == "messages" and spoken,
        "it speaks to a grader": any(map(speaks_of_grading, [*lesson.texts, *trained])),
        "the answer holds a secret": any(GAP in t or KEYS.search(t) for t in trained),
        "in the evaluation": held or _words(lesson.question) in asked,
        "terms of the draft's model do not permit training": pair and not own.may_train,
        "there is no draft": pair and not draft.strip(),
        "draft and answer are as good": pair and (alike or loss == 0),
        "it is not known which is better": pair and loss is None and lesson.origin == "audited",
        "an audit found the draft better": not pair and (loss or 0) < 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _words(text: str) -> str:
    """Words without case and punctuation, spaces around each."""
    return f" {' '.join(WORD.findall(text.casefold()))} "
