"""Transcripts (what models answered, whether it was right, what it cost) and labelled examples.

An id may be in a file once: a copied row would count as two observations of one fact.
"""

from __future__ import annotations

import csv
import gzip
import logging
import math
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar

from langchain_core.messages import AnyMessage, SystemMessage
from langchain_core.messages.utils import convert_to_messages
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.functional_validators import AfterValidator

from cascade.confidence import signals
from cascade.errors import ConfigurationError, MissingDependencyError

T = TypeVar("T")

logger = logging.getLogger("cascade")

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Features = Annotated[
    dict[str, float],
    AfterValidator(lambda given: {name: x for name, x in given.items() if math.isfinite(x)}),
]


# Other people's recordings have keys of their own; they stay and are written again.
_OPEN = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")


class Step(signals.Step):
    """One call of an agent's run; the prompt is paid for again at every step."""

    model_config = _OPEN

    cost_usd: Amount | None = None


class Outcome(BaseModel):
    """One model's answer to one question, with tokens and dollars of all calls that it took, and
    those of signals that asked a model (`check_cost_usd`). About it are known a `confidence`, a
    probability or a raw score, finite `features` that `cascade.confidence` took, and other
    `signals`, such as votes."""

    model_config = _OPEN

    correct: Probability
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost_usd: Amount | None = None
    output: str | None = None
    pred: str | None = None
    check_cost_usd: Amount | None = 0.0
    latency_ms: Amount | None = None
    confidence: Probability | None = None
    signals: dict[str, JsonValue] = Field(default_factory=dict)
    features: Features = Field(default_factory=dict)
    steps: tuple[Step, ...] = ()


class Transcript(BaseModel):
    """One question with the outcomes of models by their names, its right answer, and what it was
    `made_with`: settings, so that answers of different ones are never mixed."""

    model_config = _OPEN

    dataset: str
    id: str
    prompt: str
    models: dict[str, Outcome]
    reference: JsonValue = None
    split: str | None = None
    made_with: dict[str, Any] = Field(default_factory=dict)

    def to_line(self) -> str:
        """The record as a line of a file."""
        return self.model_dump_json(exclude_unset=True) + "\n"


def _named(path: Path, rows: Iterable[T]) -> Iterator[T]:
    """What is read from a file, with errors that name it."""
    try:
        yield from rows
    except ConfigurationError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        told = f"{path} cannot be read ({getattr(error, 'strerror', None) or error})"
        way_out = "mend it, or give another file"
        if isinstance(error, UnicodeDecodeError):
            told = f"{path} is not UTF-8 (byte {error.start})"
            way_out = f"convert it first, `iconv -f latin1 -t utf-8 {path} > utf8{path.suffix}`"
        raise ConfigurationError(f"{told}: {way_out}.") from error


def _json_lines(path: Path, kind: TypeAdapter[T]) -> Iterator[tuple[int, T]]:
    """Numbered records of a file, plain or gzip; a crash may have cut off the last transcript."""
    with path.open("rb") as plain:
        packed = plain.peek(2)[:2] == b"\x1f\x8b"
        for number, line in enumerate(gzip.GzipFile(fileobj=plain) if packed else plain, 1):
            if not line.strip():
                continue
            try:
                yield number, kind.validate_json(line.removeprefix(BOM_UTF8))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                is_cut = first["type"] == "json_invalid" and not line.endswith(b"\n")
                if is_cut and kind is _TRANSCRIPT:
                    logger.warning("%s:%d was cut off: left out", path, number)
                    return
                where = ".".join(map(str, first["loc"])) or "the line"
                told = f"{path}:{number}: {where}: {first['msg']}, not {first['input']!r:.60}"
                way_out = "Mend or delete the line; docs/transcripts.md has a transcript's fields"
                raise ConfigurationError(f"{told}. {way_out}.") from error


def _check_once(seen: dict[str, int], name: str, number: int, path: Path, unit: str) -> None:
    first = seen.setdefault(name, number)
    if first != number:
        told = f"{path}:{number}: the id {name!r} is in {unit} {first} already"
        raise ConfigurationError(f"{told}. A question may count once: delete one of the two.")


_TRANSCRIPT, _ROW = TypeAdapter(Transcript), TypeAdapter(dict[str, Any])


def read_transcripts(path: str | Path) -> Iterator[Transcript]:
    """The records of a JSONL file, plain or gzip; a last line that was cut off is left out.

    Raises:
        ConfigurationError: a line is not a record, or two have the same id.
    """
    path, seen = Path(path), dict[str, int]()
    for number, record in _named(path, _json_lines(path, _TRANSCRIPT)):
        _check_once(seen, record.id, number, path, "line")
        yield record


QUESTIONS, LABELS = ("messages", "question", "prompt"), ("reference", "answer", "label")
"""Columns in which a question and its right answer are looked for, in this order."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question, last of its messages, with its right answer, or answers that were judged."""

    id: str
    messages: tuple[AnyMessage, ...]
    reference: JsonValue = None
    labels: Mapping[str, bool] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """Text of the last message."""
        return str(self.messages[-1].text)


def read_table(path: str | Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a file of one of the `KINDS`; a `ConfigurationError` where it cannot be read."""
    path = Path(path)
    if (reader := KINDS.get(path.suffix.casefold())) is None:
        raise ConfigurationError(f"{path.name}: a file of rows ends with {', '.join(KINDS)}.")
    return _named(path, reader(path))


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**30)
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        # Spreadsheets of half of Europe write semicolons.
        between = next((mark for mark in ",;\t" if mark in first), ",")
        rows = csv.DictReader(file, delimiter=between, strict=True)
        if twice := [name for name, count in Counter(rows.fieldnames).items() if count > 1]:
            told = f"{path} has the column {twice[0]!r} more than once"
            raise ConfigurationError(f"{told}: give each a name of its own.")
        for row in rows:
            if None in row:  # what stands under no name
                told = f"{path}:{rows.line_num}: more fields than names"
                raise ConfigurationError(f"{told}. Put a field with {between!r} between quotes.")
            yield row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        parquet = import_module("pyarrow.parquet")  # by name, since it has no types
    except ImportError as error:
        raise MissingDependencyError("for Parquet install the extra `parquet`.") from error
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


KINDS: Mapping[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    ".jsonl": lambda path: (row for _, row in _json_lines(path, _ROW)),
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
"""Reader of rows, by the ending of a file's name."""


def read_examples(
    path: str | Path,
    *,
    question: str | None = None,
    label: str | None = None,
    system: str | None = None,
) -> list[Example]:
    """Labelled examples from a table; one without a label has no reference. Columns are `question`
    (by default one of `QUESTIONS`), `label` (one of `LABELS`), `id` (or the row's number), and
    `labels`, which maps answers to true or false. `system` goes before each question that has no
    such message. What cannot be read is a `ConfigurationError`."""
    path, rows = Path(path), list(read_table(path))
    names = list(dict.fromkeys(name for row in rows for name in row))

    def column(given: str | None, usual: tuple[str, ...]) -> str:
        wanted = (given,) if given else usual
        found = next((name for name in wanted if name in names), "")
        if not found and wanted is not LABELS:
            told = f"{path} has no column {' or '.join(wanted)}"
            has = f"it has {', '.join(names) or 'no examples'}"
            raise ConfigurationError(f"{told}; {has}. Rename, or give --question, --label.")
        return found

    asked, known = column(question, QUESTIONS), column(label, LABELS)
    seen, examples = dict[str, int](), []
    for number, row in enumerate(rows, start=1):
        name = str(number if row.get("id") in (None, "") else row["id"])
        _check_once(seen, name, number, path, "row")
        try:
            messages, labels = _messages(row.get(asked), system), dict(row.get("labels") or {})
            if {type(right) for right in labels.values()} - {bool}:
                raise ValueError(f"labels maps answers to true or false, not {labels!r:.60}")
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise ConfigurationError(f"{path}, row {number}: {error}.") from error
        said = row.get(known)
        reference = None if isinstance(said, str) and not said.strip() else said
        judged = {answer.strip(): right for answer, right in labels.items()}
        examples.append(Example(name, messages, reference, judged))
    return examples


def _messages(given: Any, system: str | None) -> tuple[AnyMessage, ...]:
    if not isinstance(given, str | list | None):
        raise ValueError(f"a question is a text or a list of messages, not {given!r:.60}")
    given = [("human", given)] if isinstance(given, str) else given or []
    messages: Any = convert_to_messages(given)
    if not messages or not str(messages[-1].text).strip():
        raise ValueError("the question is empty")
    told = () if system is None or messages[0].type == "system" else (SystemMessage(system),)
    return (*told, *messages)
