"""Recordings: written by any model, read again with everything that was measured."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from cascade.errors import ConfigurationError, RateLimitError, RecordingMissError
from cascade.models import Recorder, ReplayModel, Request, open_model, request_key
from cascade.state import Completion, TokenLogprob, Usage
from cascade.testing import ScriptedModel, reply
from tests.models.asking import ask, ask_in_pieces, question

FULL = Completion(
    text="Paris",
    model="served",
    usage=Usage(input_tokens=5, output_tokens=2, cached_tokens=1, reasoning_tokens=0),
    logprobs=(TokenLogprob("Par", -0.25, (("Lon", -2.0),)), TokenLogprob("is", -0.125)),
    tool_calls=({"name": "f", "args": {"a": 1}, "id": "c1", "type": "tool_call"},),
    finish_reason="stop",
    thinking="hm",
    latency_ms=120.5,
    busy_ms=80.0,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sub" / "recording.jsonl"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


async def test_what_was_recorded_comes_back_whole(path: Path) -> None:
    recorder = Recorder(ScriptedModel([FULL]), path, settings={"threads": 2})
    assert await ask(recorder, logprobs=True) == FULL
    model = open_model(f"replay:{path}")
    assert isinstance(model, ReplayModel)
    assert await ask(model) == FULL
    assert model.returns_logprobs
    assert (model.local, model.real) == (True, False)
    assert model.header.model == "scripted:scripted"
    assert model.header.settings == {"threads": 2}


async def test_a_stream_is_recorded_and_replayed(path: Path) -> None:
    recorder = Recorder(ScriptedModel(["to be"]), path)
    assert (await ask_in_pieces(recorder))[0] == ["to", " be"]
    pieces, answer = await ask_in_pieces(ReplayModel(path))
    assert pieces == ["to be"]
    assert answer is not None
    assert answer.text == "to be"
    assert not ReplayModel(path).returns_logprobs


async def test_an_empty_answer_streams_as_no_piece(path: Path) -> None:
    await ask(Recorder(ScriptedModel([reply("")]), path))
    assert (await ask_in_pieces(ReplayModel(path)))[0] == []


async def test_a_miss_says_what_is_missing_and_where(path: Path) -> None:
    await ask(Recorder(ScriptedModel(["x"]), path))
    with pytest.raises(RecordingMissError) as caught:
        await ask(ReplayModel(path), "Something else?" * 20)
    message = str(caught.value)
    assert request_key(question("Something else?" * 20)) in message
    assert "Something else?" in message
    assert str(path) in message
    assert "Recorder" in message


async def test_the_same_request_gets_its_answers_in_turn(path: Path) -> None:
    recorder = Recorder(ScriptedModel(["one", "two"]), path)
    await ask(recorder)
    await ask(recorder)
    model = ReplayModel(path)
    assert [(await ask(model)).text for _ in range(3)] == ["one", "two", "one"]


async def test_a_failure_is_not_recorded(path: Path) -> None:
    model = ScriptedModel(["x"], failures=[RateLimitError("slow", model="m")])
    with pytest.raises(RateLimitError):
        await ask(Recorder(model, path))
    assert len(lines(path)) == 1


async def test_pace_waits_as_long_as_the_model_did(path: Path) -> None:
    await ask(Recorder(ScriptedModel([FULL]), path))
    paced = open_model(f"replay:{path}", options={"pace": True})
    started = time.perf_counter()
    await ask(paced)
    assert time.perf_counter() - started >= 0.12


async def test_64_answers_at_once_are_64_whole_lines(path: Path) -> None:
    recorder = Recorder(ScriptedModel(lambda request: request.messages[0].text), path)
    await asyncio.gather(*(ask(recorder, f"q{i}") for i in range(64)))
    model = ReplayModel(path)
    answers = await asyncio.gather(*(ask(model, f"q{i}") for i in range(64)))
    assert [answer.text for answer in answers] == [f"q{i}" for i in range(64)]


async def test_a_half_written_last_line_is_forgiven_and_cut_off(path: Path) -> None:
    await ask(Recorder(ScriptedModel(["one"]), path), "q1")
    with path.open("a") as file:
        file.write('{"key": "abc", "ans')
    assert (await ask(ReplayModel(path), "q1")).text == "one"
    await ask(Recorder(ScriptedModel(["two"]), path), "q2")
    model = ReplayModel(path)
    assert [(await ask(model, q)).text for q in ("q1", "q2")] == ["one", "two"]


async def test_the_weights_are_named_by_their_hash(path: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"abc")
    model = ScriptedModel(["x"])
    model.weights_path = weights
    Recorder(model, path)
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert ReplayModel(path).header.weights_sha256 == sha256


async def test_the_recorder_passes_on_what_the_model_is(path: Path) -> None:
    closed = []

    class Closing(ScriptedModel):
        async def aclose(self) -> None:
            closed.append(True)

    model = Closing(["x"], name="m", logprobs=0.5)
    recorder = Recorder(model, path)
    assert (recorder.name, recorder.real, recorder.local) == ("scripted:m", False, True)
    assert recorder.returns_logprobs
    await recorder.aclose()
    assert closed


def test_a_recording_of_another_model_is_not_continued(path: Path) -> None:
    Recorder(ScriptedModel(["x"], name="a"), path)
    with pytest.raises(ConfigurationError, match=r"scripted:a .* scripted:b"):
        Recorder(ScriptedModel(["x"], name="b"), path)


HEADER = '{"version":1,"model":"m","recorded_at":"2026-01-01T00:00:00Z"}\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no header"),
        (b"hello\n", "not a header"),
        (b'{"version":1}\n', "model"),
        (HEADER.replace("1,", "9,").encode(), "version 9"),
        (b"\xff\xfe\n", "not UTF-8"),
        (f"{HEADER}[1]\n".encode(), "line 2.*no key"),
        (f"{HEADER}\n{{broken\n".encode(), "line 3"),
        (f'{HEADER}{{"key":"k","answer":{{"text":1,"model":"m"}}}}\n'.encode(), "line 2.*text"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=says):
        ReplayModel(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        ReplayModel(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "other",
    [
        question("Another?"),
        question(max_tokens=2),
        question(temperature=0.5),
        question(stop=("x",)),
        question(seed=1),
        question(tools=({"type": "function"},)),
        question(tool_choice="none"),
        question(schema={"type": "object"}),
        question(extra={"think": True}),
    ],
)
def test_what_decides_the_answer_decides_the_key(other: Request) -> None:
    assert request_key(other) != request_key(question())


def test_the_key_does_not_depend_on_what_only_describes_the_answer() -> None:
    same = question(timeout_s=3, logprobs=True, top_logprobs=5)
    assert request_key(same) == request_key(question())
    assert request_key(question(extra={"a": 1, "b": 2})) == request_key(
        question(extra={"b": 2, "a": 1})
    )


def test_the_key_is_stable_over_versions_of_this_program() -> None:
    assert request_key(question("Capital of France?")) == "0db542f0fb0e9fd97e7af2891678facf"


def test_random_ids_of_tool_calls_do_not_change_the_key() -> None:
    def conversation(call_id: str) -> Request:
        call = {"name": "f", "args": {}, "id": call_id, "type": "tool_call"}
        result = ToolMessage("1", tool_call_id=call_id)
        return Request((HumanMessage("q", id=call_id), AIMessage("", tool_calls=[call]), result))

    assert request_key(conversation("one")) == request_key(conversation("two"))


async def test_the_file_is_what_the_documentation_says(path: Path) -> None:
    await ask(Recorder(ScriptedModel([FULL]), path), logprobs=True)
    header, answer = (json.loads(line) for line in lines(path))
    assert set(header) == {"version", "model", "weights_sha256", "recorded_at", "settings"}
    assert set(answer) == {"key", "question", "answer"}
    assert answer["question"] == "Capital of France?"
    assert answer["answer"]["logprobs"][0] == ["Par", -0.25, [["Lon", -2.0]]]
    documented = "\n".join(lines(Path(__file__).parents[2] / "docs" / "replay.md"))
    for name in {*header, *answer, *answer["answer"]}:
        assert f"`{name}`" in documented
