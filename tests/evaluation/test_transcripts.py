from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.evaluation import (
    Outcome,
    Transcript,
    TranscriptWriter,
    read_transcripts,
    rows_of_pair,
)

OUTCOME = {"correct": 1, "input_tokens": 20, "output_tokens": 3, "cost_usd": 0.002}
ROW = {
    "dataset": "capitals",
    "id": "q1",
    "prompt": "The capital of Australia?",
    "reference": "Canberra",
    "split": "dev",
    "subject": "geography",
    "models": {
        "small": {**OUTCOME, "correct": 0, "output": "Sydney", "signals": {"votes": ["a", None]}},
        "large": {**OUTCOME, "pred": None, "cost_usd_single": 0.001, "signals": {}},
    },
}


def write(path: Path, *lines: object, end: str = "\n") -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + end, encoding="utf-8")
    return path


def row(**changes: object) -> dict[str, object]:
    return {**ROW, **changes}


def outcome(**changes: object) -> dict[str, object]:
    return row(models={"small": {**OUTCOME, **changes}})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "set.jsonl"


def test_a_row_is_read_with_all_that_it_knows(path: Path) -> None:
    (record,) = read_transcripts(write(path, ROW))
    assert (record.dataset, record.id, record.reference) == ("capitals", "q1", "Canberra")
    assert record.models["small"].correct == 0.0
    assert record.models["small"].signals == {"votes": ["a", None]}
    assert record.models["large"].cost_usd_single == 0.001


def test_keys_of_other_recordings_stay(path: Path) -> None:
    (record,) = read_transcripts(write(path, ROW))
    assert json.loads(record.to_line()) == ROW


def test_gzip_is_told_by_the_content(path: Path) -> None:
    path.write_bytes(gzip.compress((json.dumps(ROW) + "\n").encode() * 3))
    assert len(list(read_transcripts(path))) == 3


def test_only_the_chosen_models_are_read(path: Path) -> None:
    write(path, outcome() | {"models": {"small": OUTCOME, "broken": "not read"}})
    (record,) = read_transcripts(path, models=["small", "absent"])
    assert set(record.models) == {"small"}


def test_empty_lines_and_a_byte_order_mark_are_passed_over(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\n  \n")
    assert len(list(read_transcripts(path))) == 1


def test_unknown_cost_and_tokens_are_not_zero(path: Path) -> None:
    write(path, outcome(cost_usd=None, input_tokens=None, output_tokens=None))
    (record,) = read_transcripts(path)
    assert record.models["small"].cost_usd is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"dataset": ', r"set\.jsonl:2: not JSON"),
        ("[1]", r":2: the line: .*not \[1\]"),
        (row(models=3), r":2: models: .*not 3"),
        ({k: v for k, v in ROW.items() if k != "id"}, r":2: id: Field required"),
        (outcome(correct=1.5), r":2: models\.small\.correct: .*not 1\.5"),
        (outcome(correct="right"), r":2: models\.small\.correct: .*not 'right'"),
        (
            '{"dataset": "d", "id": "i", "prompt": "p", "models": {"m": {"correct": NaN}}}',
            "NaN|nan",
        ),
        (outcome(cost_usd=-0.1), r":2: models\.small\.cost_usd: .*not -0\.1"),
        (outcome(input_tokens=-1), r":2: models\.small\.input_tokens"),
        (outcome(confidence=2), r":2: models\.small\.confidence"),
        (row(models={"small": {"correct": 1}}), r":2: models\.small\.input_tokens: Field required"),
    ],
)
def test_a_wrong_line_is_named_with_the_field(path: Path, line: object, message: str) -> None:
    write(path, ROW, line, ROW)
    with pytest.raises(ConfigurationError, match=message):
        list(read_transcripts(path))


def test_rows_before_a_wrong_line_are_given(path: Path) -> None:
    rows = read_transcripts(write(path, ROW, "broken", ROW))
    assert next(rows).id == "q1"


def test_a_half_written_last_line_is_left_out_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, ROW, json.dumps(ROW)[:40], end="")
    assert len(list(read_transcripts(path))) == 1
    assert f"{path}:2 was cut off" in caplog.text


def test_a_whole_last_line_needs_no_line_break(path: Path) -> None:
    assert len(list(read_transcripts(write(path, ROW, ROW, end="")))) == 2


def test_a_gzip_file_that_ends_early_gives_what_is_there(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (json.dumps(row(id=f"{number * 7919 % 9973}")) for number in range(20_000))
    whole = gzip.compress("\n".join(lines).encode())
    path.write_bytes(whole[: len(whole) // 2])
    assert 0 < len(list(read_transcripts(path))) < 20_000
    assert "middle of its compressed data" in caplog.text


@pytest.mark.parametrize(
    "content", [None, gzip.compress(b"x" * 100)[:10] + b"\xff" * 40], ids=["absent", "damaged"]
)
def test_a_file_that_cannot_be_read_is_named(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"set\.jsonl cannot be read"):
        list(read_transcripts(path))


def test_features_that_are_not_finite_are_missing() -> None:
    made = Outcome(**OUTCOME, features={"mean": -0.2, "min": -math.inf, "p_true": math.nan})
    assert made.features == {"mean": -0.2}


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.floats(0, 1e9)
OUTCOMES = st.builds(
    Outcome,
    correct=st.floats(0, 1),
    input_tokens=st.none() | st.integers(0, 10**9),
    output_tokens=st.none() | st.integers(0, 10**9),
    cost_usd=st.none() | NUMBERS,
    output=st.none() | st.text(),
    latency_ms=st.none() | NUMBERS,
    confidence=st.none() | st.floats(0, 1),
    signals=st.dictionaries(st.text(), VALUES, max_size=3),
    features=st.dictionaries(st.text(), st.floats(), max_size=3),
)
TRANSCRIPTS = st.builds(
    Transcript,
    dataset=st.text(),
    id=st.text(),
    prompt=st.text(),
    reference=VALUES,
    split=st.none() | st.text(),
    models=st.dictionaries(st.text(), OUTCOMES, max_size=3),
)


@settings(max_examples=50)
@given(records=st.lists(TRANSCRIPTS, max_size=4, unique_by=lambda record: record.id))
def test_what_is_written_is_read(
    records: list[Transcript], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("written") / "set.jsonl"
    with TranscriptWriter(path) as writer:
        for record in records:
            writer.write(record)
    assert list(read_transcripts(path)) == records


def made(number: int) -> Transcript:
    return Transcript.model_validate(row(id=f"q{number}"))


@given(cut=st.integers(0, 3 * len(made(0).to_line())))
def test_an_interrupted_recording_goes_on_where_it_was_cut(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "set.jsonl"
    records = [made(number) for number in range(3)]
    path.write_bytes("".join(record.to_line() for record in records).encode()[:cut])
    with TranscriptWriter(path) as writer:
        for record in records:
            if record.id not in writer.ids:
                writer.write(record)
    assert list(read_transcripts(path)) == records


def test_a_last_line_that_lacks_only_its_line_break_is_kept(path: Path) -> None:
    path.write_text(made(1).to_line().rstrip("\n"), encoding="utf-8")
    with TranscriptWriter(path) as writer:
        writer.write(made(2))
    assert [record.id for record in read_transcripts(path)] == ["q1", "q2"]


def test_each_line_is_in_the_file_when_write_returns(path: Path) -> None:
    with TranscriptWriter(path) as writer:
        writer.write(made(1))
        assert [record.id for record in read_transcripts(path)] == ["q1"]


def test_a_record_is_not_written_twice(path: Path) -> None:
    with TranscriptWriter(path) as writer:
        writer.write(made(1))
        with pytest.raises(ConfigurationError, match="already has a record with the id 'q1'"):
            writer.write(made(1))


def test_a_recording_makes_its_folder(tmp_path: Path) -> None:
    with TranscriptWriter(tmp_path / "new" / "set.jsonl") as writer:
        assert writer.ids == set()


def test_a_place_that_cannot_be_written_is_named(path: Path) -> None:
    path.write_text("")
    with pytest.raises(ConfigurationError, match=r"inside\.jsonl cannot be written"):
        TranscriptWriter(path / "inside.jsonl")


def test_a_gzip_file_is_not_appended_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"set\.jsonl and compress it"):
        TranscriptWriter(tmp_path / "set.jsonl.gz")


def test_the_rows_of_a_pair_are_those_with_both_models(path: Path) -> None:
    lacking = row(id="q2", models={"small": OUTCOME})
    found = rows_of_pair(read_transcripts(write(path, ROW, lacking)), "small", "large")
    assert [record.id for record in found] == ["q1"]


def test_a_model_that_is_nowhere_is_an_error_that_names_the_others(path: Path) -> None:
    records = read_transcripts(write(path, ROW, row(id="q2")))
    with pytest.raises(ConfigurationError, match=r"'small' and 'huge'.*small \(2\), large \(2\)"):
        rows_of_pair(records, "small", "huge")


def test_of_nothing_there_is_no_pair() -> None:
    with pytest.raises(ConfigurationError, match="number of rows: none"):
        rows_of_pair([], "small", "large")
