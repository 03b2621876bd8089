"""Recordings: written by any model, read again with everything that was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from cascade.errors import ConfigurationError, RecordingMissError
from cascade.models import Recorder, ReplayModel, Request, open_model
from cascade.models.recording import request_key
from cascade.state import Completion, TokenLogprob, Usage
from cascade.testing import ScriptedModel
from tests.models.asking import ask, ask_in_pieces, question

FULL = Completion(
    text="Paris",
    model="served",
    usage=Usage(input_tokens=5, output_tokens=2, cached_tokens=1, reasoning_tokens=0),
    logprobs=(TokenLogprob("Par", -0.25, (("Lon", -2.0),)), TokenLogprob("is", -0.125)),
    tool_calls=({"name": "f", "args": {"a": 1}, "id": "c1", "type": "tool_call"},),
    call_logprobs=(TokenLogprob("f", -0.5),),
    finish_reason="stop",
    thinking="hm",
    latency_ms=120.5,
    busy_ms=80.0,
)


def scripted(*answers: Completion, name: str = "m") -> ScriptedModel:
    """A model that gives these answers, or repeats the question."""
    says: Any = list(answers) or (lambda request: str(request.messages[0].text))
    return ScriptedModel(says, name=name, returns_logprobs=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sub" / "recording.jsonl"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


async def test_what_was_recorded_comes_back_whole(path: Path) -> None:
    recorder = Recorder(scripted(FULL), path)
    assert await ask(recorder, logprobs=True) == FULL
    model = open_model(f"replay:{path}")
    assert isinstance(model, ReplayModel)
    assert await ask(model) == FULL
    assert model.returns_logprobs
    assert (model.local, model.real) == (True, False)
    assert model.header.model == "scripted:m"
    assert await model.digest() is None


async def test_a_stream_is_recorded_and_replayed(path: Path) -> None:
    assert (await ask_in_pieces(Recorder(scripted(), path), "to be"))[0] == ["to", " be"]
    replayed = ReplayModel(path)
    assert not replayed.returns_logprobs
    assert (await ask_in_pieces(replayed, "to be"))[0] == ["to be"]


async def test_a_miss_says_what_is_missing_and_where(path: Path) -> None:
    await ask(Recorder(scripted(), path))
    long = "Something else?" * 20
    with pytest.raises(RecordingMissError) as caught:
        await ask(ReplayModel(path), long)
    for part in (request_key(question(long)), "Something else?", str(path), "Recorder"):
        assert part in str(caught.value)


async def test_the_same_request_gets_its_answers_in_turn(path: Path) -> None:
    recorder = Recorder(scripted(Completion("one", "m"), Completion("two", "m")), path)
    for _ in range(2):
        await ask(recorder)
    model = ReplayModel(path)
    assert [(await ask(model)).text for _ in range(3)] == ["one", "two", "one"]


async def test_a_half_written_last_line_is_forgiven_and_cut_off(path: Path) -> None:
    await ask(Recorder(scripted(), path), "one")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"key": "half')
    assert (await ask(ReplayModel(path), "one")).text == "one"
    await ask(Recorder(scripted(), path), "two")
    assert (await ask(ReplayModel(path), "two")).text == "two"


async def test_the_recorder_is_what_the_model_is(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"abc")
    model, closed = scripted(), AsyncMock()
    model.weights_path = weights
    monkeypatch.setattr(model, "aclose", closed)
    recorder = Recorder(model, path)
    assert (recorder.name, recorder.real, recorder.local) == ("scripted:m", False, True)
    assert (recorder.returns_logprobs, recorder.secrets, recorder.warm) == (True, (), model.warm)
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert await recorder.digest() == ReplayModel(path).header.weights_sha256 == sha256
    await recorder.aclose()
    closed.assert_awaited_once_with()


def test_a_recording_of_another_model_is_not_continued(path: Path) -> None:
    Recorder(scripted(name="a"), path)
    with pytest.raises(ConfigurationError, match="scripted:a, not scripted:b"):
        Recorder(scripted(name="b"), path)


HEADER = '{"version":1,"model":"m","recorded_at":"2026-01-01T00:00:00Z"}\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "line 1"),
        (b"hello\n", "line 1"),
        (HEADER.replace("1,", "9,").encode(), "version 1.*version"),
        (b"\xff\xfe\n", "utf-8"),
        (f'{HEADER}{{"answer":{{"text":"a","model":"m"}}}}\n'.encode(), "line 2.*key"),
        (f"{HEADER}\n{{broken\n".encode(), "line 3"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "r.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=says):
        ReplayModel(path)


OTHERS: dict[str, Any] = {
    "max_tokens": 2,
    "temperature": 0.5,
    "stop": ("x",),
    "seed": 1,
    "tools": ({"type": "function"},),
    "tool_choice": "none",
    "schema": {"type": "object"},
    "extra": {"think": True},
    "answer": "Paris",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_decides_the_answer_decides_the_key(name: str) -> None:
    asked = question(**{name: OTHERS[name]})
    assert request_key(asked) != request_key(question()) != request_key(question("Another?"))


def test_the_key_does_not_depend_on_what_only_describes_the_answer() -> None:
    same = question(timeout_s=3, logprobs=True, top_logprobs=5)
    assert request_key(same) == request_key(question())
    keys = set()
    for call_id in ("one", "two"):  # ids of calls are random
        call = {"name": "f", "args": {}, "id": call_id, "type": "tool_call"}
        said = AIMessage("", tool_calls=[call]), ToolMessage("1", tool_call_id=call_id)
        keys.add(request_key(Request((HumanMessage("q", id=call_id), *said))))
    assert len(keys) == 1
    a, b = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert request_key(question(extra=a)) == request_key(question(extra=b))


def test_the_key_is_stable_over_versions_of_this_program() -> None:
    assert request_key(question("Capital of France?")) == "0db542f0fb0e9fd97e7af2891678facf"


async def test_halves_of_characters_can_be_recorded(path: Path) -> None:
    await ask(Recorder(scripted(FULL), path), "\ud83d")
    answer = json.loads(lines(path)[1])
    assert (answer["question"], answer["answer"]["text"]) == ("\ufffd", "Paris")
    assert "cached" not in answer["answer"], "fields that have their default are left out"
