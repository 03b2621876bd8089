import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.evaluation import Outcome, Transcript, read_examples, read_transcripts
from cascade.evaluation.features import Pair
from cascade.evaluation.recordings import Step, read_table

RIGHT = Outcome(correct=1, cost_usd=0.5)


def record(name: str = "1", **models: Outcome) -> Transcript:
    return Transcript(dataset="set", id=name, prompt="Where?", models=models)


def written(path: Path, *records: Transcript) -> Path:
    path.write_text("".join(one.to_line() for one in records), encoding="utf-8")
    return path


def ids(path: Path) -> list[str]:
    return [row.id for row in read_transcripts(path)]


def test_what_is_written_is_read_again_with_keys_of_others(tmp_path: Path) -> None:
    outcome = Outcome(
        correct=0.5,
        features={"a": 1.0, "b": float("nan")},
        steps=(Step(action="look", is_error=True),),
    )
    line = json.dumps({**json.loads(record(small=outcome).to_line()), "subject": "law"})
    path = tmp_path / "t.jsonl"  # known by its content
    path.write_bytes(gzip.compress(f"\ufeff{line}\n\n".encode()))
    (read,) = read_transcripts(path)
    assert read.model_extra == {"subject": "law"}
    assert read.models["small"].features == {"a": 1.0}
    assert read.models["small"].steps[0].action == "look"
    assert read.models["small"].cost_usd is None
    assert "subject" in read.to_line()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"dataset": "d"}\n', "id: Field required"),
        (b"[1]\n", "the line: "),
        (
            b'{"dataset": "d", "id": "1", "prompt": "p", "models": {"b": {"correct": 7}}}\n',
            r"t\.jsonl:1: models\.b\.correct: .*not 7",
        ),
        (record().to_line().encode() * 2, r"t\.jsonl:2: the id '1' is in line 1 already"),
        (gzip.compress(b"x" * 999, mtime=0)[:-9], "cannot be read"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        ids(path)


def test_a_last_line_that_was_cut_off_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "t.jsonl", record("1"), record("2"))
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING, "cascade"):
        assert ids(path) == ["1"]
    assert "cut off" in caplog.text
    path.write_text(record("1").to_line().rstrip("\n"))  # a whole line without its end
    assert ids(path) == ["1"]


def test_two_models_are_named_and_their_rows_in_the_order_of_their_ids() -> None:
    rows = [record("b", s=RIGHT, l=RIGHT), record("a", s=RIGHT, l=RIGHT), record("c", s=RIGHT)]
    assert [row.id for row in Pair(rows, "s", "l").rows] == ["a", "b"]
    for large in ("x", "s", ""):
        other = large or "the large model"
        message = rf"no row has both s and {other}: name two .*s \(3\), l \(2\)"
        with pytest.raises(ConfigurationError, match=message):
            Pair(rows, "s", large)


ROWS: list[dict[str, Any]] = [
    {"id": "x", "text": "Good, really?", "category": "positive"},
    {"id": "y", "text": "Bad", "category": ""},
]


@pytest.mark.parametrize("kind", [".csv", ";.csv", ".jsonl", ".parquet"])
def test_examples_are_read_from_columns_that_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows{kind}"
    if kind == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet  # noqa: PLC0415 - only where it is installed

        parquet.write_table(arrow.Table.from_pylist(ROWS), path)
    else:
        csv = '\ufeffid,text,category\nx,"Good, really?",positive\n\ny,Bad,\n'
        if kind == ";.csv":
            csv = "\ufeffid;text;category\nx;Good, really?;positive\n\ny;Bad;\n"
        path.write_text(csv if kind.endswith("csv") else "\n".join(map(json.dumps, ROWS)), "utf-8")
    found = read_examples(path, question="text", label="category", system="Be brief")
    assert [(e.id, e.question, e.reference) for e in found] == [
        ("x", "Good, really?", "positive"),
        ("y", "Bad", None),
    ]
    assert [m.type for m in found[0].messages] == ["system", "human"]


def test_columns_have_usual_names_and_ids_may_be_numbers_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"messages": [["system", "s"], ["human", "q"]], "labels": {" a ": True}})
        + "\n"
        + json.dumps({"messages": "plain", "answer": 7})
    )
    one, other = read_examples(path, system="not twice")
    assert (one.id, one.messages[0].text, one.labels) == ("1", "s", {"a": True})
    assert (other.id, other.question, other.messages[0].text) == ("2", "plain", "not twice")
    assert other.reference == 7


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("r.csv", "a,a\n1,2\n", {}, "has the column 'a' more than once"),
        ("r.csv", "question\n1,2\n", {}, r"r\.csv:2: more fields than names"),
        ("r.csv", 'question\n"no end\nlost\n', {}, "unexpected end of data"),
        ("r.csv", "text\nhello\n", {}, "no column messages or question or prompt; it has text"),
        ("r.csv", "question\nhello\n", {"label": "x"}, "no column x; it has question"),
        ("r.csv", "id,question\n1,a\n1,b\n", {}, "the id '1' is in row 1 already"),
        ("r.csv", b"question\n\xfcmlaut\n", {}, "is not UTF-8 .byte .*`iconv -f latin1"),
        ("r.jsonl", '{"question": " "}', {}, "row 1: the question is empty"),
        ("r.jsonl", '{"question": 7}', {}, "row 1: a question is a text or .* not 7"),
        ("r.jsonl", '{"messages": [{"x": 1}]}', {}, "row 1"),
        ("r.jsonl", '{"question": "q", "labels": {"a": 1}}', {}, "row 1: labels maps"),
        ("r.jsonl", "[1]", {}, r"r\.jsonl:1: the line: Input should be an object"),
        ("r.jsonl", "{", {}, r"r\.jsonl:1: the line: Invalid JSON"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | bytes, options: dict[str, str], message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigurationError, match=message):
        read_examples(path, **options)


def test_parquet_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match="install the extra `parquet`"):
        list(read_table(tmp_path / "r.parquet"))
