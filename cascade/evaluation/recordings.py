"""Transcripts (what models answered, whether it was right, what it cost) and labelled examples.

A transcript is one JSON object per line, plain or gzip. A table of examples is JSON lines, CSV or
Parquet. An id may be in a file once: a copied row would count as two observations of one fact.
"""

from __future__ import annotations

import csv
import gzip
import logging
import math
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, cast

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from langchain_core.messages.utils import convert_to_messages
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import from_json

from cascade.errors import ConfigurationError, MissingDependencyError

logger = logging.getLogger("cascade")

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _only_finite(features: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in features.items() if math.isfinite(value)}


Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Features = Annotated[dict[str, float], AfterValidator(_only_finite)]


class _Recorded(BaseModel):
    # Other people's recordings have keys of their own; they stay and are written again.
    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")


class Step(_Recorded):
    """One call of an agent's run.

    Attributes:
        action: what the model wrote, or the calls that it made.
        observation: what came back; None where nothing did.
        kind: `submit` proposes the answer, `invalid` could not be read by the environment,
            `end_of_turn` hands back to the user.
        is_error: whether the tool or the environment answered with an error.
        prompt_tokens: of this call; the prompt is paid for again at every step.
        cost_usd: dollars of this call; None where unknown.
    """

    action: str
    observation: str | None = None
    kind: Literal["tool", "submit", "invalid", "end_of_turn"] = "tool"
    is_error: bool = False
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cost_usd: Amount | None = None
    latency_ms: Amount | None = None


class Outcome(_Recorded):
    """One model's answer to one question.

    Attributes:
        correct: score of the answer, from 0 (wrong) to 1 (right).
        input_tokens: of all calls that the answer took; None where unknown.
        output_tokens: the same, reasoning included.
        cost_usd: dollars of all calls that the answer took; None where unknown, never 0 for it.
        output: the answer as the model gave it.
        pred: the answer taken out of `output`, None where there was none in it.
        cost_usd_single: dollars of one sample, where `cost_usd` pays for several.
        check_cost_usd: dollars of the signals that asked a model about the answer; None where
            unknown, unset where there were none.
        latency_ms: wall time until the answer was there.
        confidence: P(correct) as it was said when recorded, or a raw score in [0, 1].
        signals: what the recording knows about the answer, as it was written: votes, log-probs.
        features: signals taken by `cascade.confidence`; those that are not finite are missing.
        steps: the calls of an agent's run, in order; empty for a single call.
    """

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


class Transcript(_Recorded):
    """One question with the outcomes of the models that were asked, by the models' names.

    Attributes:
        dataset: the set that the question belongs to.
        id: of the question, unique in its file: an interrupted recording goes on by it.
        prompt: the question as it was asked.
        reference: the right answer, in whatever form the set's scorer takes; None if unknown.
        split: the part of the set (`dev`, `test`, …), where it has parts.
        models: the outcomes; not every question has every model.
    """

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


def read_transcripts(
    path: str | Path, *, models: Collection[str] | None = None
) -> Iterator[Transcript]:
    """The records of a file, one by one.

    A last line that was cut off while it was written is left out with a warning.

    Args:
        path: a JSONL file, plain or gzip; the content tells, not the name.
        models: keep and check the outcomes of these alone, which is faster.

    Raises:
        ConfigurationError: there is no such file, a line is not a record, or two have the same
            id; the message names file, line and field.
    """
    path = Path(path)
    seen: dict[str, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = from_json(line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                logger.warning("%s:%d was cut off while it was written: left out", path, number)
                return
            raise _unreadable(path, number, f"not JSON ({error})", line) from error
        try:
            record = _record(row, models)
        except ValidationError as error:
            raise _unreadable(path, number, first_problem(error), line) from error
        if record.id in seen:
            raise ConfigurationError(
                f"{path}:{number}: the id {record.id!r} is in line {seen[record.id]} already. A "
                "question may count once: delete one of the two."
            )
        seen[record.id] = number
        yield record


def _record(row: object, models: Collection[str] | None) -> Transcript:
    if models is not None and isinstance(row, dict) and isinstance(row.get("models"), dict):
        kept = {name: row["models"][name] for name in models if name in row["models"]}
        row = {**row, "models": kept}
    return Transcript.model_validate(row)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with _open(path) as file:
            yield from file
    except EOFError:
        logger.warning("%s ends in the middle of its compressed data: the rest is left out", path)
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"{path} cannot be read ({reason}). Give a file of JSON lines, plain or gzip."
        ) from error


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")
    if file.peek(2)[:2] != _GZIP:
        return file
    file.close()
    return cast(BinaryIO, gzip.open(path, "rb"))


def _unreadable(path: Path, number: int, reason: str, line: bytes) -> ConfigurationError:
    shown = line[:80].decode(errors="replace").strip()
    return ConfigurationError(
        f"{path}:{number}: {reason}: {shown!r}. Mend or delete the line; docs/transcripts.md has "
        "the fields."
    )


def first_problem(error: ValidationError) -> str:
    """Place, reason and value of the first thing that a record got wrong."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or "the line"
    given = "" if first["type"] == "missing" else f", not {first['input']!r:.60}"
    return f"{place}: {first['msg']}{given}"


class TranscriptWriter:
    """Appends records to a file, so that a crash loses at most the line being written.

    Each line is handed to the system before `write` returns. A line that an earlier crash cut
    off is removed when the file is opened again.

    Args:
        path: a plain JSONL file; what is there is continued. Compress it when it is complete.

    Attributes:
        ids: of the records that are in the file: what an interrupted recording need not do
            again.

    Raises:
        ConfigurationError: the path names a gzip file, it cannot be written, or what is
            there is not transcripts.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix == ".gz":
            raise ConfigurationError(
                f"{self.path}: a gzip file cannot be appended to safely. Write "
                f"{self.path.with_suffix('')} and compress it when it is complete."
            )
        self.ids: set[str] = set()
        if self.path.exists():
            self.ids = {record.id for record in read_transcripts(self.path, models=())}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be written ({error.strerror}): give another path."
            ) from error
        self._end_last_line()

    def write(self, record: Transcript) -> None:
        """Append one record.

        Raises:
            ConfigurationError: a record of this id is already there.
        """
        if record.id in self.ids:
            raise ConfigurationError(
                f"{self.path} already has a record with the id {record.id!r}: skip the ids that "
                "the writer knows (`ids`), or give each question an id of its own."
            )
        self._file.write(record.to_line().encode())
        self._file.flush()
        self.ids.add(record.id)

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        self._file.close()

    def __enter__(self) -> TranscriptWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_last_line(self) -> None:
        written = self.path.read_bytes()
        whole = written.rfind(b"\n") + 1
        if whole == len(written):
            return
        try:
            from_json(written[whole:])
        except ValueError:
            self._file.truncate(whole)
        else:
            self._file.write(b"\n")
            self._file.flush()


def rows_of_pair(records: Iterable[Transcript], small: str, large: str) -> list[Transcript]:
    """The rows that have both models, sorted by id.

    Raises:
        ConfigurationError: none has; the message lists the models there are.
    """
    seen: Counter[str] = Counter()
    found = []
    for record in records:
        seen.update(list(record.models))
        if small in record.models and large in record.models:
            found.append(record)
    if found:
        # What is drawn at random must not depend on the order in which answers were recorded.
        return sorted(found, key=lambda record: record.id)
    known = ", ".join(f"{name} ({count:,})" for name, count in seen.most_common()) or "none"
    raise ConfigurationError(
        f"no row has both {small!r} and {large!r}. Models with their number of rows: {known}."
    )


def name_pair(
    records: Collection[Transcript], small: str | None = None, large: str | None = None
) -> tuple[str, str]:
    """The two models to compare: those named, or of exactly two the cheaper as the small one.

    Raises:
        ConfigurationError: a name that the recording does not have, or no way to tell.
    """
    counts = Counter(name for row in records for name in row.models)
    listed = ", ".join(f"{name} ({n:,})" for name, n in sorted(counts.items())) or "none"
    for option, given in (("small", small), ("large", large)):
        if given is not None and given not in counts:
            raise ConfigurationError(
                f"{option}={given}: the recording has no such model. Models with their number of "
                f"rows: {listed}."
            )
    if small is not None and small == large:
        raise ConfigurationError(f"small and large are both {small}: name two models.")
    if small is not None and large is not None:
        return small, large
    if len(counts) != 2:
        raise ConfigurationError(
            f"which two models? Name small and large. Models with their number of rows: {listed}."
        )
    if small is not None or large is not None:
        other = next(name for name in counts if name not in (small, large))
        return small or other, large or other
    cheap, dear = sorted(counts, key=lambda name: _mean_cost(records, name))
    return cheap, dear


def _mean_cost(records: Iterable[Transcript], model: str) -> float:
    costs = [row.models[model].cost_usd for row in records if model in row.models]
    known = [cost for cost in costs if cost is not None]
    if not known:
        raise ConfigurationError(
            f"which is the small one? The costs of {model} are unknown: name small and large."
        )
    return sum(known) / len(known)


# Tables and labelled examples -----------------------------------------------------------------

KINDS: Mapping[str, str] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}

QUESTIONS = ("messages", "question", "prompt")
REFERENCES = ("reference", "answer", "label")


@dataclass(frozen=True, slots=True)
class Example:
    """One question with what is known about its answer.

    Attributes:
        id: unique in its file; the row's number where the file has none.
        messages: the conversation, the question last.
        reference: the right answer, None when there is none.
        labels: answers that a person judged, answer → right or wrong.
    """

    id: str
    messages: tuple[AnyMessage, ...]
    reference: JsonValue = None
    labels: Mapping[str, bool] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """Text of the last message."""
        return str(self.messages[-1].text)


def read_table(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a `.jsonl`, `.csv` or `.parquet` file, one by one.

    Raises:
        ConfigurationError: the file cannot be read, or two of its columns have one name.
        MissingDependencyError: Parquet without pyarrow.
    """
    path = Path(path)
    kind = KINDS.get(path.suffix.casefold())
    if kind is None:
        raise ConfigurationError(f"{path.name}: a file of rows ends with {', '.join(KINDS)}.")
    if kind == "parquet":
        yield from _parquet(path)
    elif kind == "csv":
        yield from _csv(path)
    else:
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                yield _json_row(path, number, line)


def _json_row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = from_json(line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line)
    except ValueError as error:
        raise ConfigurationError(f"{path}:{number}: not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise ConfigurationError(f"{path}:{number}: not a JSON object: {row!r:.60}.")
    return row


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**30)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            names = next(rows, [])
            _check_names(path, names)
            for row in rows:
                if len(row) > len(names):
                    raise ConfigurationError(
                        f"{path}:{rows.line_num}: {len(row)} fields under {len(names)} names. Put "
                        "a field that has commas in it between quotes."
                    )
                if row:
                    yield dict(zip(names, row, strict=False))
    except (OSError, csv.Error) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 (byte {error.start}).") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        # By name, since it has no types.
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingDependencyError(
            'Parquet needs pyarrow: pip install "agent-cascade[parquet]".'
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            _check_names(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error


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
    id_column: str | None = None,
    system: str | None = None,
) -> list[Example]:
    """Labelled examples from a table; one without a label has no reference.

    Args:
        path: JSON lines, CSV or Parquet.
        question: column of the questions; by default `messages`, `question` or `prompt`.
        label: column of the right answers; by default `reference`, `answer` or `label`. A column
            `labels` may map answers to true or false.
        id_column: column of the ids; by default `id`, or the row's number.
        system: a system message before each question that has none.

    Raises:
        ConfigurationError: a row or a column cannot be read, or two rows have one id.
    """
    path = Path(path)
    rows = list(read_table(path))
    if not rows:
        raise ConfigurationError(f"{path} has no examples in it.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    asked = _column(path, names, question, QUESTIONS)
    if asked is None:
        raise ConfigurationError(
            f"{path} has no column of questions; it has {', '.join(names)}. Name the column."
        )
    known = _column(path, names, label, REFERENCES)
    named = _column(path, names, id_column, ("id",))
    examples: list[Example] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        given = row.get(named) if named else None
        key = str(number if given is None or given == "" else given)
        if key in seen:
            raise ConfigurationError(
                f"{path}: rows {seen[key]} and {number} have the id {key!r}. A question may count "
                "once: delete one of the two."
            )
        seen[key] = number
        examples.append(
            Example(
                id=key,
                messages=_messages(path, number, row.get(asked), system),
                reference=_reference(row.get(known)) if known else None,
                labels=_labels(path, number, row.get("labels")),
            )
        )
    return examples


def _column(
    path: Path, names: Collection[str], given: str | None, usual: Iterable[str]
) -> str | None:
    if given is not None and given not in names:
        raise ConfigurationError(f"{path} has no column {given!r}; it has {', '.join(names)}.")
    return given or next((name for name in usual if name in names), None)


def _messages(path: Path, number: int, given: Any, system: str | None) -> tuple[AnyMessage, ...]:
    try:
        messages = (
            [HumanMessage(given)] if isinstance(given, str) else convert_to_messages(given or [])
        )
        if not messages or not str(messages[-1].text).strip():
            raise ValueError("the question is empty")
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise ConfigurationError(f"{path}, row {number}: {error}.") from error
    if system is not None and messages[0].type != "system":
        messages = [SystemMessage(system), *messages]
    return tuple(cast("list[AnyMessage]", messages))


def _reference(given: Any) -> JsonValue:
    return None if isinstance(given, str) and not given.strip() else given


def _labels(path: Path, number: int, given: Any) -> dict[str, bool]:
    judged = {} if given is None else given
    if not isinstance(judged, dict) or not all(isinstance(v, bool) for v in judged.values()):
        raise ConfigurationError(
            f"{path}, row {number}: labels maps answers to true or false, not {given!r:.60}."
        )
    return {str(answer).strip(): right for answer, right in judged.items()}
