"""Log-probabilities that come with the pieces of a stream, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade.models import Chunk, Model, Recorder, Request
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from cascade.models.recording import read_recording
from cascade.testing import ScriptedModel, reply
from tests.servers import replies
from tests.servers.fake import FakeServer

ASKED = Request((HumanMessage("?"),), logprobs=True)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


async def heard(model: Model, request: Request = ASKED) -> list[tuple[str, tuple[str, ...]]]:
    """Each piece with the tokens that came with it."""
    pieces = [
        (chunk.text, tuple(token.token for token in chunk.logprobs))
        async for chunk in model.stream(request)
        if chunk.text or chunk.logprobs
    ]
    await model.aclose()
    return pieces


def item(token: str, *, logprob: Any = -0.5, bytes_: list[int] | None = None) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": bytes_}


async def over_openai(server: FakeServer, *deltas: dict[str, Any]) -> list[Any]:
    server.will(replies.sse([*deltas, replies.openai_delta("stop")]))
    return await heard(OpenAIModel("m", base_url=server.openai_url))


async def test_each_piece_brings_its_tokens(server: FakeServer) -> None:
    expected = [("Par", ("Par",)), ("is", ("is",))]
    assert await heard(OpenAIModel("m", base_url=server.openai_url)) == [("?", ("?",))]
    server.will(replies.openai_stream("Paris"))
    assert await heard(OpenAIModel("m", base_url=server.openai_url)) == expected
    server.will(replies.ollama_stream("Paris"))
    assert await heard(OllamaModel("m", base_url=server.url)) == expected


async def test_a_character_of_several_tokens_waits_for_the_last(server: FakeServer) -> None:
    first, second = list("é".encode())
    pieces = await over_openai(
        server,
        replies.openai_delta(content="", logprobs=[item("\ufffd", bytes_=[first])]),
        replies.openai_delta(content="é", logprobs=[item("\ufffd", bytes_=[second])]),
        replies.openai_delta(content="t", logprobs=[item("t")]),
    )
    assert pieces == [("é", ("\ufffd", "\ufffd")), ("t", ("t",))]


@pytest.mark.parametrize(
    "strange",
    [
        replies.openai_delta(content="b", logprobs=[item("other")]),
        replies.openai_delta(content="b"),
        replies.openai_delta(content="b", logprobs=[item("b", logprob=-9999)]),
        replies.openai_delta(content="b", logprobs=[item("b")], reasoning_content="hm"),
        replies.openai_delta(
            logprobs=[item("{")], tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]
        ),
    ],
    ids=["other text", "none", "placeholder", "thinking", "tool call"],
)
async def test_after_what_cannot_be_trusted_nothing_more_comes(
    server: FakeServer, strange: dict[str, Any]
) -> None:
    before = replies.openai_delta(content="a", logprobs=[item("a")])
    after = replies.openai_delta(content="c", logprobs=[item("c")])
    pieces = await over_openai(server, before, strange, after)
    assert [tokens for _, tokens in pieces if tokens] == [("a",)]


async def test_a_thinking_model_of_ollama_streams_none(server: FakeServer) -> None:
    parts = [
        replies.ollama_body("", done=False, thinking="hm", logprobs=[item("hm")]),
        replies.ollama_body("a", done=False, logprobs=[item("a")]),
        replies.ollama_body(""),
    ]
    server.will(replies.ndjson(parts))
    assert await heard(OllamaModel("m", base_url=server.url)) == [("a", ())]


async def test_a_recorder_passes_them_on_and_closes_what_it_listens_to(tmp_path: Path) -> None:
    closed = []

    class Closing(ScriptedModel):
        async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
            try:
                async for chunk in super()._stream(request):
                    yield chunk
            finally:
                closed.append(True)

    model = Recorder(Closing([reply("one two", probability=0.5)]), tmp_path / "recording.jsonl")
    assert model.streams_logprobs
    stream = model.stream(ASKED)
    assert [token.token for token in (await anext(stream)).logprobs] == ["one"]
    await stream.aclose()
    assert closed == [True]
    assert read_recording(tmp_path / "recording.jsonl").answers == {}


async def test_a_scripted_model_streams_the_tokens_that_spell_its_text() -> None:
    answer = reply("one two", probability=0.5)
    assert await heard(ScriptedModel([answer])) == [("one", ("one",)), (" two", (" two",))]
    assert await heard(ScriptedModel([reply("one two")])) == [("one", ()), (" two", ())]
