"""Export of lessons for training, in the forms that trainers read, and a status of a store.

Rows are TRL's conversational data sets (huggingface.co/docs/trl/dataset_formats): `messages`, or
`prompt` and `completion`, or `prompt`, `chosen` and `rejected`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, Literal, get_args

from cascade.confidence import as_data, normalise, speaks_of_grading
from cascade.errors import ConfigurationError
from cascade.evaluation.recordings import read_examples, read_transcripts
from cascade.middleware.background import lot
from cascade.teaching.evidence import jaccard
from cascade.teaching.lessons import EVERYTHING, Lesson, LessonSelection, Terms, terms_of
from cascade.teaching.store import Export, LessonStore

Form = Literal["messages", "prompt_completion", "preference"]
"""Columns of a training file."""

BOILERPLATE = 10
"""A row of words that is in more lessons than this is a form, and no evaluation question (as in
Brown et al., 2020, arXiv 2005.14165, appendix C)."""

LINKED = 0.5
"""Jaccard index of two questions from which both go to the same file."""

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+?(?=[\u3040-\u9fff]|\b)")
_SECRET = re.compile(
    r"\b(?:sk|pk|rk|gsk|hf|xai|gh[pos]|glpat|xox[abprs])[-_][\w-]{8,}|\bgithub_pat_\w{8,}"
    r"|\bAKIA[A-Z0-9]{12,}|\bAIza[\w-]{20,}|\beyJ[\w-]{8,2000}\.[\w-]{8,2000}\.[\w-]*"
    r"|\bBearer\s+\S{8,}|\b[a-z][a-z0-9+.-]{0,30}://[^\s/@'\"]{1,300}@",
    re.IGNORECASE,
)
MASK = "[…]"

Shingles = frozenset[tuple[str, ...]]
"""Rows of words of a text (Broder, 1997)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What is written, and how.

    Attributes:
        form: columns of the file.
        validation: share of the rows for the validation file; 0 for none.
        near: Jaccard index of three-word rows of question and answer from which two lessons are
            duplicates.
        ngram: words in a row that a lesson may not share with the evaluation.
        alike: Jaccard index from which a question is one of the evaluation.
        seed: of the split.
        selection: which lessons are looked at.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    form: Form = "messages"
    validation: float = 0.1
    near: float = 0.8
    ngram: int = 8
    alike: float = 0.5
    seed: int = 0
    selection: LessonSelection = EVERYTHING

    def __post_init__(self) -> None:
        ranges = {
            "form": (self.form in get_args(Form), f"one of {', '.join(get_args(Form))}"),
            "validation": (0 <= self.validation < 1, "a share from 0 to below 1"),
            "near": (0 < self.near <= 1, "above 0, at most 1"),
            "alike": (0 < self.alike <= 1, "above 0, at most 1"),
            "ngram": (self.ngram >= 4, "4 or more; 8 to 13 are usual"),
        }
        for name, (holds, wanted) in ranges.items():
            if not holds:
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: {wanted}.")


@dataclass(slots=True)
class Exported:
    """What was written.

    Attributes:
        lessons: number that was looked at.
        training, validation: lessons in the files.
        removed: number of lessons in neither, by reason.
        files: by `training` and `validation`.
    """

    lessons: int = 0
    training: list[Lesson] = field(default_factory=list)
    validation: list[Lesson] = field(default_factory=list)
    removed: Counter[str] = field(default_factory=Counter)
    files: dict[str, Path] = field(default_factory=dict)


def evaluation_questions(paths: Iterable[str | Path]) -> list[str]:
    """The questions of files of transcripts or of examples.

    Raises:
        ConfigurationError: a file is neither.
    """
    found: list[str] = []
    for path in paths:
        try:
            found += [row.prompt for row in read_transcripts(path, models=())]
        except ConfigurationError:
            found += [example.question for example in read_examples(path)]
    return found


async def export(
    store: LessonStore,
    path: str | Path,
    options: ExportOptions | None = None,
    evaluation: Sequence[str] = (),
) -> Exported:
    """Write lessons whose terms permit it to a training file, without duplicates and without what
    an evaluation asks.

    The files are noted in the store before they are written, so that a deletion names them; what is
    deleted meanwhile is not written.

    Args:
        store: of the lessons.
        path: of the training file; that of validation has `.validation` before its ending.
        options: what and how.
        evaluation: questions that no row may hold.

    Raises:
        ConfigurationError: nothing is left to write, or a file cannot be written.
    """
    options, place = options or ExportOptions(), _absolute(path)
    before, _ = await store.gone()
    done = await choose(store, options, evaluation)
    if not done.training:
        why = "; ".join(f"{reason}: {n:,}" for reason, n in done.removed.most_common())
        raise ConfigurationError(
            f"of {done.lessons:,} lessons none is left to train on ({why or 'there are none'}). "
            "Where terms are missing, state them: store.state_terms(model, Terms(may_train=True, "
            "source=…)), or `cascade lessons terms`."
        )
    beside = place.with_name(f"{place.stem}.validation{place.suffix}")
    parts = {"training": (place, done.training), "validation": (beside, done.validation)}
    for purpose, (file, lessons) in parts.items():
        ids = [lesson.run_id for lesson in lessons]
        await store.note_export(str(file), ids, purpose=purpose)
    _, gone = await store.gone(before)
    for purpose, (file, lessons) in parts.items():
        kept = [lesson for lesson in lessons if lesson.run_id not in gone]
        done.removed["deleted meanwhile"] += len(lessons) - len(kept)
        lessons[:] = kept
        if kept or purpose == "training":
            _write(file, [row_of(lesson, options.form) for lesson in kept])
            done.files[purpose] = file
        else:
            beside.unlink(missing_ok=True)  # of an earlier export
    done.removed = +done.removed
    return done


async def choose(
    store: LessonStore, options: ExportOptions, evaluation: Sequence[str] = ()
) -> Exported:
    """The lessons for training and validation; nothing is written.

    Raises:
        UnavailableError: the store cannot be reached.
    """
    done, stated, found = Exported(), await store.terms(), list[Lesson]()
    async for lesson in store.lessons(options.selection):
        done.lessons += 1
        why = _unfit(lesson, options.form, stated)
        if why is None:
            found.append(lesson)
        else:
            done.removed[why] += 1
    asked = _in_evaluation(found, options, evaluation)
    clean = [lesson for lesson, is_asked in zip(found, asked, strict=True) if not is_asked]
    done.removed["in the evaluation"] += len(found) - len(clean)
    kept = _distinct(clean, options.near)
    done.removed["duplicate"] += len(clean) - len(kept)
    _split(kept, options, done)
    done.removed = +done.removed
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
        return _SECRET.sub(MASK, as_data(value)) if is_text else value
    if isinstance(value, Mapping):
        return {name: _cleaned(v, name) for name, v in value.items() if v is not None}
    return [_cleaned(each, key) for each in value] if isinstance(value, list | tuple) else value


def _unfit(lesson: Lesson, form: Form, stated: Mapping[str, Terms]) -> str | None:
    """Why a lesson must not be trained on; every model's text in a row needs terms that permit
    it."""
    preference, draft = form == "preference", lesson.draft or ""
    may = lesson.may(stated).may_train
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
        "the answer holds a secret": any(MASK in t or _SECRET.search(t) for t in trained),
        "there is no draft": preference and not draft.strip(),
        "draft and answer are as good": preference and (alike or lesson.loss == 0),
        "it is not known which is better": preference and unknown,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


# --- duplicates, evaluation, split


def _words(text: str) -> tuple[str, ...]:
    """Words without case and punctuation; a character each where there are no spaces between."""
    return tuple(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def _shingles(words: Sequence[str], n: int = 3) -> Shingles:
    if len(words) <= n:
        return frozenset([tuple(words)]) if words else frozenset()
    return frozenset(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def near_pairs(sets: Sequence[Shingles], alike: float) -> Iterator[tuple[int, int]]:
    """All pairs (earlier, later) of sets with a Jaccard index of at least `alike`.

    Exact, without comparing all: of two such sets the rarest |x| − ⌈alike·|x|⌉ + 1 members of each
    have one in common (prefix filter; Bayardo, Ma and Srikant, "Scaling up all pairs similarity
    search", 2007).
    """
    counts = Counter(member for one in sets for member in one)
    seen: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    share = Fraction(alike).limit_denominator(1_000)
    for place, one in enumerate(sets):
        ranked = sorted(one, key=lambda member: (counts[member], member))
        prefix = ranked[: len(one) - ceil(share * len(one)) + 1]
        for other in sorted({other for member in prefix for other in seen[member]}):
            if jaccard(sets[other], one) >= alike:
                yield other, place
        for member in prefix:
            seen[member].append(place)


def _in_evaluation(
    lessons: Sequence[Lesson], options: ExportOptions, questions: Sequence[str]
) -> list[bool]:
    """Whether each lesson holds a question of the evaluation: nearly the same words, or the same
    words in a row."""
    tests = [words for words in map(_words, questions) if words]
    asked = [_words(lesson.question) for lesson in lessons]
    found = [False] * len(lessons)
    n, sets = len(tests), [_shingles(words) for words in (*tests, *asked)]
    for a, b in near_pairs(sets, options.alike):
        if a < n <= b:
            found[b - n] = True
    for size in {min(options.ngram, len(words)) for words in tests if len(words) >= 4}:
        fitting = [w for w in tests if len(w) == size or len(w) > size == options.ngram]
        rows = frozenset(row for words in fitting for row in _shingles(words, size))
        shared = [rows & _shingles(_words(_said(lesson)), size) for lesson in lessons]
        often = Counter(row for each in shared for row in each)
        for place, each in enumerate(shared):
            found[place] |= any(often[row] <= BOILERPLATE for row in each)
    return found


def _said(lesson: Lesson) -> str:
    texts = [str(message.get("content") or "") for message in lesson.messages]
    return "\n".join([*texts, lesson.answer, lesson.draft or ""])


def _distinct(lessons: list[Lesson], near: float) -> list[Lesson]:
    """One of each set of duplicates: one that people say is right, else the newest."""
    ranked = sorted(lessons, key=lambda x: (x.answer_is_wrong is False, x.at, x.run_id))[::-1]
    first: dict[str, Lesson] = {}
    for lesson in ranked:
        first.setdefault(lesson.digest, lesson)
    kept = list(first.values())
    sets = [_shingles(_words(f"{lesson.question}\n{lesson.answer}")) for lesson in kept]
    gone: set[int] = set()
    for earlier, later in near_pairs(sets, near):
        if earlier not in gone:
            gone.add(later)
    return [lesson for place, lesson in enumerate(kept) if place not in gone]


def _split(lessons: list[Lesson], options: ExportOptions, done: Exported) -> None:
    """Questions that are alike go to the same file, drawn as if at random."""
    ordered = sorted(lessons, key=lambda lesson: (lesson.at, lesson.run_id))
    sets = [_shingles(_words(lesson.question)) for lesson in ordered]
    units = {place: [place] for place in range(len(ordered))}
    for a, b in near_pairs(sets, LINKED):
        if units[a] is not units[b]:
            units[a] += units[b]
            units |= dict.fromkeys(units[b], units[a])
    room = round(options.validation * len(ordered))
    drawn: set[int] = set()
    different = {id(unit): unit for unit in units.values()}.values()
    purpose = f"split {options.seed}"
    for unit in sorted(different, key=lambda u: lot(ordered[min(u)].digest, purpose)):
        if len(unit) <= room - len(drawn):
            drawn.update(unit)
    done.training = [lesson for place, lesson in enumerate(ordered) if place not in drawn]
    done.validation = [ordered[place] for place in sorted(drawn)]


def _absolute(path: str | Path) -> Path:
    place = Path(path).absolute()
    if not place.parent.is_dir() or place.is_dir():
        raise ConfigurationError(f"{place}: a file in a folder that exists is needed.")
    return place


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All of it or nothing: a trainer must not read half a file."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error


# --- status


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a store holds, and what may be done with it.

    Attributes:
        lessons: their number.
        by_task, by_origin: the same by task and by origin.
        said_right, said_wrong: lessons whose answer people judged.
        models: by large model, the number of `lessons`, and of those that `may_train`, whose terms
            are `not_stated`, and that `may_remember`, by the terms of today.
        exports: files that were made of lessons.
    """

    lessons: int
    by_task: Mapping[str, int]
    by_origin: Mapping[str, int]
    said_right: int
    said_wrong: int
    models: Mapping[str, Mapping[str, int]]
    exports: Sequence[Export]


async def status_of(store: LessonStore, selection: LessonSelection = EVERYTHING) -> Status:
    """The status of a store.

    Raises:
        UnavailableError: it cannot be reached.
    """
    stated, judged = await store.terms(), Counter[bool | None]()
    tasks, origins = Counter[str](), Counter[str]()
    models: defaultdict[str, Counter[str]] = defaultdict(Counter)
    async for lesson in store.lessons(selection):
        tasks[lesson.task] += 1
        origins[lesson.origin] += 1
        judged[lesson.answer_is_wrong] += 1
        may, counts = lesson.may(stated), models[lesson.answer_model]
        counts["lessons"] += 1
        counts["may_train"] += may.may_train is True
        counts["not_stated"] += may.may_train is None
        counts["may_remember"] += may.may_remember
    return Status(
        lessons=tasks.total(),
        by_task=dict(tasks.most_common()),
        by_origin=dict(origins.most_common()),
        said_right=judged[False],
        said_wrong=judged[True],
        models={model: dict(counts) for model, counts in models.items()},
        exports=await store.exports(),
    )
