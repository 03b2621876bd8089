"""Recorded outcomes: what each model answered, whether it was right, and what it cost.

One JSON object per line, plain or gzip (`docs/transcripts.md`). Reading is streaming; only the
models that are asked for are validated. A transcript is not a recording (`cascade.models`): that
one gives answers again, this one knows their worth.
"""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import from_json

from cascade.errors import ConfigurationError

logger = logging.getLogger("cascade")

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _only_finite(features: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in features.items() if math.isfinite(value)}


Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Features = Annotated[dict[str, float], AfterValidator(_only_finite)]


class _Recorded(BaseModel):
    # Other people's recordings have keys of their own; they stay and are written again.
    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")


class Outcome(_Recorded):
    """What one model made of one question.

    Attributes:
        correct: the answer's score, from 0 (wrong) to 1 (right).
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
        features: signals taken by `cascade.confidence.signals`; those that are not finite are
            missing and left out.
        approved: of a large model that was shown the draft: whether it let that stand.
        instruction: version of the words with which it was shown.
    """

    correct: Probability
    input_tokens: int | None = Field(ge=0)
    output_tokens: int | None = Field(ge=0)
    cost_usd: Amount | None
    output: str | None = None
    pred: str | None = None
    cost_usd_single: Amount | None = None
    check_cost_usd: Amount | None = None
    latency_ms: Amount | None = None
    confidence: Probability | None = None
    signals: dict[str, JsonValue] = Field(default_factory=dict)
    features: Features = Field(default_factory=dict)
    approved: bool | None = None
    instruction: int | None = None


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


def read_transcripts(
    path: str | Path, *, models: Collection[str] | None = None
) -> Iterator[Transcript]:
    """The records of a file, one by one.

    A last line that was cut off while it was written is left out with a warning.

    Args:
        path: a JSONL file, plain or gzip; the content tells, not the name.
        models: keep and check the outcomes of these alone, which is faster.

    Raises:
        ConfigurationError: there is no such file, or a line is not a record; the message names
            file, line and field.
    """
    path = Path(path)
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
            yield _record(row, models)
        except ValidationError as error:
            raise _unreadable(path, number, _first(error), line) from error


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
            f"{path} cannot be read ({reason}). Give a file of transcripts: JSON lines, plain or "
            "gzip."
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


def _first(error: ValidationError) -> str:
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
    """The rows that have both models.

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
        return found
    known = ", ".join(f"{name} ({count})" for name, count in seen.most_common()) or "none"
    raise ConfigurationError(
        f"no row has both {small!r} and {large!r}. Models with their number of rows: {known}."
    )
