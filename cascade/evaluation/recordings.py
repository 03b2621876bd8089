"""Transcripts (what models answered, whether it was right, what it cost) and labelled examples.

An id may be in a file once: a copied row would count as two observations of one fact.
"""

from __future__ import annotations

import csv
import gzip
import logging
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from langchain_core.messages.utils import convert_to_messages
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import from_json

from cascade.confidence import trajectory
from cascade.errors import ConfigurationError, MissingDependencyError

logger = logging.getLogger("cascade")

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Features = Annotated[
    dict[str, float],
    AfterValidator(lambda given: {name: x for name, x in given.items() if math.isfinite(x)}),
]


# Other people's recordings have keys of their own; they stay and are written again.
_OPEN = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")


class Step(trajectory.Step):
    """One call of an agent's run; the prompt is paid for again at every step."""

    model_config = _OPEN

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cost_usd: Amount | None = None
    latency_ms: Amount | None = None


class Outcome(BaseModel):
    """One model's answer to one question; tokens and dollars are of all calls that it took.

    Attributes:
        pred: what was taken out of the `output`, None for nothing.
        cost_usd_single: dollars of one sample, where `cost_usd` pays for several.
        check_cost_usd: dollars of the signals that asked a model; unset where there were none.
        confidence: P(correct) as it was said when recorded, or a raw score.
        signals: what the recording knows about the answer, as it was written: votes, log-probs.
        features: signals taken by `cascade.confidence`; those that are not finite are missing.
    """

    model_config = _OPEN

    correct: Probability
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost_usd: Amount | None = None
    output: str | None = None
    pred: str | None = None
    cost_usd_single: Amount | None = None
    check_cost_usd: Amount | None = None
    latency_ms: Amount | None = None
    confidence: Probability | None = None
    signals: dict[str, JsonValue] = Field(default_factory=dict)
    features: Features = Field(default_factory=dict)
    steps: tuple[Step, ...] = ()


class Transcript(BaseModel):
    """One question with the outcomes of the models by their names; not every one has every model.
    The `reference` is the right answer in the form that the set's scorer takes."""

    model_config = _OPEN

    dataset: str
    id: str
    prompt: str
    models: dict[str, Outcome]
    reference: JsonValue = None
    split: str | None = None

    def to_line(self) -> str:
        """The record as a line of a file; what is unset is left out."""
        return self.model_dump_json(exclude_unset=True) + "\n"


# Transcripts ----------------------------------------------------------------------------------


def read_transcripts(path: str | Path) -> Iterator[Transcript]:
    """The records of a JSONL file, plain or gzip, one by one. A last line that was cut off while it
    was written is left out with a warning.

    Raises:
        ConfigurationError: a line is not a record, or two have the same id.
    """
    path, seen = Path(path), dict[str, int]()
    for number, row in _json_lines(path, may_be_cut=True):
        try:
            record = Transcript.model_validate(row)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the line"
            raise ConfigurationError(
                f"{path}:{number}: {place}: {first['msg']}, not {first['input']!r:.60}. Mend or "
                "delete the line; docs/transcripts.md has the fields."
            ) from error
        _check_once(seen, record.id, number, path, "line")
        yield record


def _check_once(seen: dict[str, int], name: str, number: int, path: Path, unit: str) -> None:
    first = seen.setdefault(name, number)
    if first != number:
        raise ConfigurationError(
            f"{path}:{number}: the id {name!r} is in {unit} {first} already. A question may count "
            "once: delete one of the two."
        )


def _json_lines(path: Path, *, may_be_cut: bool = False) -> Iterator[tuple[int, Any]]:
    """The values of a file of JSON lines, plain or gzip (the content tells), and their lines."""
    try:
        with path.open("rb") as plain:
            packed = plain.peek(2)[:2] == _GZIP
            for number, line in enumerate(gzip.GzipFile(fileobj=plain) if packed else plain, 1):
                if not line.strip():
                    continue
                try:
                    row = from_json(line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line)
                except ValueError as error:
                    if may_be_cut and not line.endswith(b"\n"):
                        logger.warning("%s:%d was cut off: left out", path, number)
                        return
                    shown = line[:80].decode(errors="replace").strip()
                    raise ConfigurationError(
                        f"{path}:{number}: not JSON ({error}): {shown!r}."
                    ) from error
                yield number, row
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"{path} cannot be read ({reason}). Give a file of JSON lines, plain or gzip."
        ) from error


class TranscriptWriter:
    """Writer of records to a plain JSONL file, whose `ids` are known; a crash loses at most the
    line being written, which the next writer removes.

    Raises:
        ConfigurationError: it cannot be written, or what is there is not transcripts.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        there = read_transcripts(self.path) if self.path.exists() else ()
        self.ids = {record.id for record in there}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        except OSError as error:
            folder = self.path.parent
            why = f"{folder} is a file" if folder.is_file() else error.strerror
            raise ConfigurationError(
                f"{self.path} cannot be written ({why}): give a folder that can be made or written "
                "to."
            ) from error
        written = self.path.read_bytes()
        last = written[written.rfind(b"\n") + 1 :]
        try:
            self._file.write(b"\n" if last and from_json(last) else b"")
        except ValueError:
            self._file.truncate(len(written) - len(last))

    def write(self, record: Transcript) -> None:
        """Append one record; it is handed to the system before this returns."""
        self._file.write(record.to_line().encode())
        self._file.flush()
        self.ids.add(record.id)

    def __enter__(self) -> TranscriptWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def rows_of_pair(records: Iterable[Transcript], small: str, large: str) -> list[Transcript]:
    """The rows that have both models, sorted by id: what is drawn at random must not depend on the
    order in which answers were recorded. No such row is a `ConfigurationError`."""
    rows = list(records)
    found = [row for row in rows if small in row.models and large in row.models]
    if not found:
        raise ConfigurationError(
            f"no row has both {small!r} and {large!r}. Models with their number of rows: "
            f"{_models_of(rows)}."
        )
    return sorted(found, key=lambda record: record.id)


def name_pair(
    records: Iterable[Transcript], small: str | None, large: str | None
) -> tuple[str, str]:
    """The names of two models, or a `ConfigurationError` with those that there are."""
    if small is None or large is None or small == large:
        raise ConfigurationError(
            f"which two models? Name small and large, with --small and --large. Models with their "
            f"number of rows: {_models_of(records)}."
        )
    return small, large


def _models_of(rows: Iterable[Transcript]) -> str:
    counts = Counter(name for row in rows for name in row.models)
    return ", ".join(f"{name} ({count:,})" for name, count in counts.most_common())


# Tables and labelled examples -----------------------------------------------------------------

QUESTIONS, LABELS = ("messages", "question", "prompt"), ("reference", "answer", "label")
"""Columns in which a question and its right answer are looked for, in this order."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question, last of its messages, with its right answer, or which answers a person judged
    right or wrong."""

    id: str
    messages: tuple[AnyMessage, ...]
    reference: JsonValue = None
    labels: Mapping[str, bool] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """Text of the last message."""
        return str(self.messages[-1].text)


def read_table(path: str | Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a file of one of the `KINDS`, one by one; one that cannot be read is a
    `ConfigurationError`."""
    path = Path(path)
    if (reader := KINDS.get(path.suffix.casefold())) is None:
        raise ConfigurationError(f"{path.name}: a file of rows ends with {', '.join(KINDS)}.")
    return reader(path)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in _json_lines(path):
        if not isinstance(row, dict):
            raise ConfigurationError(f"{path}:{number}: not a JSON object: {row!r:.60}.")
        yield row


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**30)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            # Spreadsheets of half of Europe write semicolons.
            between = next((mark for mark in ",;\t" if mark in first), ",")
            rows = csv.DictReader(file, delimiter=between, strict=True)
            _check_names(path, rows.fieldnames or ())
            for row in rows:
                if None in row:  # what stands under no name
                    raise ConfigurationError(
                        f"{path}:{rows.line_num}: more fields than names. Put a field that has "
                        f"{between!r} in it between quotes."
                    )
                yield row
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not UTF-8 (byte {error.start}): convert it first, "
            f"`iconv -f latin1 -t utf-8 {path} > utf8.csv`."
        ) from error
    except csv.Error as error:
        raise ConfigurationError(f"{path} cannot be read as CSV: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        # By name, since it has no types.
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet needs pyarrow: install the extra `parquet`."
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            _check_names(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error


KINDS: Mapping[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
"""Reader of rows, by the ending of a file's name."""


def _check_names(path: Path, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigurationError(
            f"{path} has the column {twice[0]!r} more than once: give each a name of its own."
        )


def read_examples(
    path: str | Path,
    *,
    question: str | None = None,
    label: str | None = None,
    system: str | None = None,
) -> list[Example]:
    """Labelled examples from a table; one without a label has no reference.

    Columns are `question` (by default one of `QUESTIONS`), `label` (one of `LABELS`), `id` (or the
    row's number), and `labels`, which maps answers to true or false. `system` goes before each
    question that has no such message. What cannot be read is a `ConfigurationError`.
    """
    path = Path(path)
    rows = list(read_table(path))
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise ConfigurationError(f"{path} has no examples in it.")
    if missing := [name for name in (question, label) if name is not None and name not in names]:
        raise ConfigurationError(f"{path} has no column {missing[0]!r}; it has {', '.join(names)}.")
    asked = question or next((name for name in QUESTIONS if name in names), None)
    known = label or next((name for name in LABELS if name in names), None)
    if asked is None:
        raise ConfigurationError(
            f"{path} has no column of questions; it has {', '.join(names)}. Name the column, "
            "or call it question."
        )
    seen, examples = dict[str, int](), []
    for number, row in enumerate(rows, start=1):
        given, said = row.get("id"), row.get(known) if known else None
        name = str(number if given is None or given == "" else given)
        _check_once(seen, name, number, path, "row")
        try:
            messages, labels = _messages(row.get(asked), system), _labels(row.get("labels"))
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise ConfigurationError(f"{path}, row {number}: {error}.") from error
        reference = None if isinstance(said, str) and not said.strip() else said
        examples.append(Example(name, messages, reference, labels))
    return examples


def _messages(given: Any, system: str | None) -> tuple[AnyMessage, ...]:
    messages = convert_to_messages([HumanMessage(given)] if isinstance(given, str) else given or [])
    if not messages or not str(messages[-1].text).strip():
        raise ValueError("the question is empty")
    if system is not None and messages[0].type != "system":
        messages = [SystemMessage(system), *messages]
    return tuple(cast("list[AnyMessage]", messages))


def _labels(given: Any) -> dict[str, bool]:
    judged = {} if given is None else given
    if not isinstance(judged, dict) or not all(isinstance(v, bool) for v in judged.values()):
        raise ValueError(f"labels maps answers to true or false, not {given!r:.60}")
    return {str(answer).strip(): right for answer, right in judged.items()}
