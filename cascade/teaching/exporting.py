"""From lessons to a file to train on: without duplicates and evaluation, balanced, split."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cascade.errors import ConfigurationError
from cascade.evaluation.transcripts import read_transcripts
from cascade.teaching.choosing import Candidate, candidate, draw_of
from cascade.teaching.forms import ROWS, Form
from cascade.teaching.lessons import Lesson, LessonSelection
from cascade.teaching.memory.groups import Groups
from cascade.teaching.overlap import NGRAM, Evaluated, joined, near_pairs, rows_of, words_of
from cascade.teaching.store import EVERYTHING, LessonStore
from cascade.teaching.terms import Terms

TRAINING, VALIDATION = "training", "validation"
"""Purposes of files with lessons, as they are noted down."""

LINKED = 0.5
"""Jaccard index of the three-word rows of two questions from which both go to the same split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What is written, and how.

    Attributes:
        form: columns of the file.
        near: Jaccard index of three-word rows, of question and answer, from which two lessons are
            duplicates.
        most_per_group: rows of one group of alike questions; None for all.
        most_per_task: rows of one task; None for all.
        validation: share of the rows for the validation file; 0 for none.
        ngram: words in a row that a lesson may not share with the evaluation.
        evaluation_alike: Jaccard index from which a question is nearly one of the evaluation.
        seed: of splits and of what is left out where there are too many.
        selection: which lessons are looked at.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    form: Form = "messages"
    near: float = 0.8
    most_per_group: int | None = None
    most_per_task: int | None = None
    validation: float = 0.1
    ngram: int = NGRAM
    evaluation_alike: float = 0.5
    seed: int = 0
    selection: LessonSelection = EVERYTHING

    def __post_init__(self) -> None:
        if self.form not in ROWS:
            raise ConfigurationError(f"form={self.form!r}: must be one of {', '.join(ROWS)}.")
        for name in ("near", "evaluation_alike"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigurationError(f"{name}={getattr(self, name):g}: above 0, at most 1.")
        if not 0 <= self.validation < 1:
            raise ConfigurationError(f"validation={self.validation:g}: a share from 0 to below 1.")
        if self.ngram < 4:
            raise ConfigurationError(f"ngram={self.ngram}: must be 4 or more; 8 to 13 are usual.")
        for name in ("most_per_group", "most_per_task"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name}={value}: must be 1 or more.")


@dataclass(slots=True)
class Exported:
    """What was chosen, and what was not.

    Attributes:
        lessons: how many were looked at.
        train, validation: the rows.
        removed: how many lessons are in neither, by the reason.
        evaluation: questions that nothing may hold.
        terms: as they are stated today.
    """

    options: ExportOptions
    lessons: int = 0
    train: list[Candidate] = field(default_factory=list)
    validation: list[Candidate] = field(default_factory=list)
    removed: Counter[str] = field(default_factory=Counter)
    evaluation: int = 0
    terms: Mapping[str, Terms] = field(default_factory=dict)

    @property
    def rows(self) -> list[Candidate]:
        """Of both files."""
        return [*self.train, *self.validation]


def evaluation_questions(paths: Iterable[Path]) -> list[str]:
    """The questions of files of transcripts (also gzip) or of examples.

    Raises:
        ConfigurationError: a file is neither.
    """
    from cascade.collect import read_examples  # noqa: PLC0415 - heavy

    found: list[str] = []
    for path in paths:
        try:
            found += [row.prompt for row in read_transcripts(path, models=())]
        except ConfigurationError:
            for example in read_examples(path):
                found.append(example.question)
    return found


async def choose(
    store: LessonStore, options: ExportOptions, evaluation: Sequence[str] = ()
) -> Exported:
    """Choose lessons for a training file; nothing is written.

    Args:
        store: of the lessons.
        options: what and how.
        evaluation: questions that no row may hold.

    Raises:
        UnavailableError: the store cannot be reached.
    """
    done = Exported(options, evaluation=len(evaluation), terms=await store.terms())
    found: list[Candidate] = []
    async for lesson in store.lessons(options.selection):
        done.lessons += 1
        made = candidate(lesson, options.form, done.terms)
        if isinstance(made, str):
            done.removed[made] += 1
        else:
            found.append(made)
    tests = Evaluated(evaluation, ngram=options.ngram, alike=options.evaluation_alike)
    rules = tests.found_in([each.asked for each in found])
    clean = []
    for each, rule in zip(found, rules, strict=True):
        if rule is None:
            clean.append(each)
        else:
            done.removed[f"in the evaluation: {rule}"] += 1
    kept = _balanced(_distinct(clean, done), done)
    _split(kept, done)
    return done


def _distinct(found: list[Candidate], done: Exported) -> list[Candidate]:
    """One of each set of duplicates: one that a user says is right, else the newest."""
    found.sort(key=lambda c: (c.trusted, c.lesson.at, c.lesson.id), reverse=True)
    first: dict[str, Candidate] = {}
    for each in found:
        first.setdefault(each.lesson.digest, each)
    done.removed["duplicate"] += len(found) - len(first)
    kept = list(first.values())
    sets = [rows_of(words_of(f"{c.lesson.question}\n{c.lesson.answer}")) for c in kept]
    near: set[int] = set()
    for earlier, later in near_pairs(sets, done.options.near):
        if earlier not in near:
            near.add(later)
    done.removed["near duplicate"] += len(near)
    return [each for place, each in enumerate(kept) if place not in near]


def _balanced(found: list[Candidate], done: Exported) -> list[Candidate]:
    """At most so many of each group and task, chosen as if at random."""
    seed, groups = done.options.seed, Groups()
    found = sorted(found, key=lambda c: (not c.trusted, draw_of(c.lesson.digest, seed)))

    def group_of(lesson: Lesson) -> str:
        group = groups.of((lesson.task, ""), lesson.question)
        return f"{lesson.task}\x00{lesson.digest if group is None else group.name}"

    found = _capped(found, done, "group", done.options.most_per_group, group_of)
    return _capped(found, done, "task", done.options.most_per_task, lambda lesson: lesson.task)


def _capped(
    found: list[Candidate],
    done: Exported,
    what: str,
    most: int | None,
    name_of: Callable[[Lesson], str],
) -> list[Candidate]:
    if most is None:
        return found
    counts: Counter[str] = Counter()
    kept = []
    for each in found:
        name = name_of(each.lesson)
        counts[name] += 1
        if counts[name] <= most:
            kept.append(each)
    done.removed[f"more than {most} of a {what}"] += len(found) - len(kept)
    return kept


def _split(found: list[Candidate], done: Exported) -> None:
    """Whole sets of linked questions go to one of the two files."""
    options = done.options
    ordered = sorted(found, key=lambda c: (c.lesson.at, c.lesson.id))
    sets = [rows_of(words_of(c.lesson.question)) for c in ordered]
    linked: defaultdict[int, list[Candidate]] = defaultdict(list)
    places = joined(len(ordered), near_pairs(sets, LINKED))
    for each, place in zip(ordered, places, strict=True):
        linked[place].append(each)
    room = round(options.validation * len(ordered))
    units = sorted(
        linked.values(),
        key=lambda unit: draw_of(min(each.lesson.digest for each in unit), options.seed),
    )
    for unit in units:
        if len(unit) <= room:
            room -= len(unit)
            done.validation += unit
        else:
            done.train += unit
    for rows in (done.train, done.validation):
        rows.sort(key=lambda c: (c.lesson.at, c.lesson.id))


async def export(
    store: LessonStore,
    path: Path,
    options: ExportOptions,
    evaluation: Sequence[str] = (),
    *,
    card: Callable[[Exported, Mapping[str, Path]], str],
) -> tuple[Exported, dict[str, Path]]:
    """Choose lessons, note the files down in the store, and write them.

    The files are noted before they are written, so that a deletion names them; what is deleted
    meanwhile is not written.

    Args:
        store: of the lessons.
        path: of the training file; `.validation` and `.card.md` stand beside it.
        options: what and how.
        evaluation: questions that no row may hold.
        card: makes the data card.

    Returns:
        what was chosen, and the files by `training`, `validation` and `card`.

    Raises:
        ConfigurationError: nothing is left to write, or a file cannot be written.
    """
    files = _places(path)
    before = (await store.gone()).until
    done = await choose(store, options, evaluation)
    if not done.train:
        raise ConfigurationError(_nothing(done))
    parts = {TRAINING: done.train, VALIDATION: done.validation}
    for purpose, rows in parts.items():
        if rows:
            ids = [each.lesson.run_id for each in rows]
            await store.note_export(str(files[purpose]), ids, purpose=purpose)
    _forget(done, (await store.gone(before)).run_ids)
    parts = {TRAINING: done.train, VALIDATION: done.validation}
    for purpose, rows in parts.items():
        _write(files[purpose], [json.dumps(c.row, ensure_ascii=False) for c in rows])
    if not done.validation:
        files.pop(VALIDATION).unlink()
    _write(files["card"], card(done, files).splitlines())
    return done, files


def _places(path: Path) -> dict[str, Path]:
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise ConfigurationError(f"{path}: a file in a folder that exists is needed.")
    return {
        TRAINING: path.absolute(),
        VALIDATION: path.absolute().with_name(f"{path.stem}.validation{path.suffix}"),
        "card": path.absolute().with_name(f"{path.stem}.card.md"),
    }


def _nothing(done: Exported) -> str:
    why = "; ".join(f"{reason}: {n:,}" for reason, n in done.removed.most_common() if n)
    return (
        f"of {done.lessons:,} lessons none is left to train on ({why or 'there are none'}). "
        "Where terms are missing: cascade lessons terms STORE MODEL --may-train --source …."
    )


def _forget(done: Exported, run_ids: Collection[str]) -> None:
    gone = frozenset(run_ids)
    for rows in (done.train, done.validation):
        n = len(rows)
        rows[:] = [each for each in rows if each.lesson.run_id not in gone]
        done.removed["deleted meanwhile"] += n - len(rows)


def _write(path: Path, lines: Sequence[str]) -> None:
    """All of it or nothing: a trainer must not read half a file."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error
