"""What the `llamacpp:` adapter makes of what the engine says; the live tests ask the engine."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest

from cascade.errors import (
    BadRequestError,
    ContextLengthError,
    MalformedResponseError,
    ModelError,
    ModelUnavailableError,
    StreamInterruptedError,
)
from cascade.models import gguf
from cascade.models.llamacpp import LlamaCppModel
from cascade.models.llamacpp_engine import Engine, LoadOptions
from cascade.state import Usage
from tests.models.asking import ask, ask_in_pieces
from tests.servers import replies


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def array(kind: int, *items: bytes) -> bytes:
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def gguf_file(path: Path, **metadata: tuple[int, bytes]) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata))
    entries = (
        text(key.replace("__", ".")) + struct.pack("<I", kind) + value
        for key, (kind, value) in metadata.items()
    )
    path.write_bytes(head + b"".join(entries))
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return gguf_file(
        tmp_path / "tiny.gguf",
        general__architecture=(8, text("llama")),
        tokens=(9, array(8, text("a"), text("bc"))),
        scores=(9, array(6, struct.pack("<f", 0.5))),
        nested=(9, array(9, array(4, struct.pack("<I", 1)), array(8, text("x")))),
        llama__context_length=(4, struct.pack("<I", 512)),
    )


class SaidEngine:
    """An engine that says what the test tells it."""

    def __init__(self, *said: dict[str, Any] | Exception) -> None:
        self.said = said
        self.payload: dict[str, Any] = {}

    async def chunks(self, payload: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        self.payload = payload
        for item in self.said:
            if isinstance(item, Exception):
                raise item
            yield item


def model_that_gets(weights: Path, *said: dict[str, Any] | Exception) -> LlamaCppModel:
    model = LlamaCppModel(str(weights), options={"top_k": 1})
    model._engine = cast("Engine", SaidEngine(*said))
    return model


def test_the_head_of_a_gguf_file_is_read(weights: Path) -> None:
    assert gguf.read_metadata(weights) == {
        "general.architecture": "llama",
        "llama.context_length": 512,
    }
    assert gguf.context_length(weights) == 512


def test_a_gguf_file_that_does_not_say_its_context(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "x.gguf", general__architecture=(8, text("llama")))
    assert gguf.context_length(path) is None


def test_the_context_is_not_longer_than_the_model_was_trained_on(weights: Path) -> None:
    assert LoadOptions.take_from({}, weights).n_ctx == 512
    assert LoadOptions.take_from({"n_ctx": 99}, weights).n_ctx == 99


async def test_an_answer_in_pieces(weights: Path) -> None:
    model = model_that_gets(weights, *replies.openai_chunks("Paris"))
    pieces, answer = await ask_in_pieces(model, max_tokens=4)
    assert pieces == ["Par", "is"]
    assert answer is not None
    assert answer.usage == Usage(input_tokens=10, output_tokens=2)
    payload = cast("SaidEngine", model._engine).payload
    assert (payload["top_k"], payload["max_tokens"], payload["stream"]) == (1, 4, True)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"error": {"code": 400, "type": "exceed_context_size_error"}}, ContextLengthError),
        ({"error": {"code": 400, "message": "no"}}, BadRequestError),
        ({"error": {"message": "crashed"}}, ModelUnavailableError),
        (RuntimeError("bad template"), BadRequestError),
        (replies.openai_delta(content="Par"), StreamInterruptedError),
        (
            replies.openai_delta(
                "stop", tool_calls=[{"function": {"name": "f", "arguments": "{"}}]
            ),
            MalformedResponseError,
        ),
    ],
)
async def test_what_goes_wrong_is_named(
    weights: Path, said: dict[str, Any] | Exception, error: type[ModelError]
) -> None:
    model = model_that_gets(weights, said)
    with pytest.raises(error, match=r"tiny\.gguf") as caught:
        await ask(model)
    assert type(caught.value) is error


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'


@pytest.fixture
def weights_with_tools(tmp_path: Path) -> Path:
    template = "{% if tools %}{{ tools }}{% endif %}"
    return gguf_file(
        tmp_path / "tools.gguf",
        general__architecture=(8, text("llama")),
        tokenizer__chat_template=(8, text(template)),
    )


def sent(model: LlamaCppModel) -> dict[str, Any]:
    return cast("SaidEngine", model._engine).payload


def in_pieces(answer: str, size: int = 9) -> list[dict[str, Any]]:
    pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
    return [
        *(replies.openai_delta(content=piece) for piece in pieces),
        replies.openai_delta("stop"),
    ]


async def test_a_call_that_is_written_as_text_is_a_call(weights_with_tools: Path) -> None:
    model = model_that_gets(weights_with_tools, *in_pieces(CALL))
    answer = await ask(model, tools=(WEATHER,))
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [
        ("weather", {"city": "Rome"})
    ]
    assert (answer.text, answer.finish_reason, answer.logprobs) == ("", "tool_calls", None)


async def test_its_log_probs_are_those_of_a_call(weights_with_tools: Path) -> None:
    tokens = ['{"name": "', "weather", '", "arguments": {"city": "', "Rome", '"}}']
    items = [{"token": token, "logprob": -0.1 * i} for i, token in enumerate(tokens)]
    model = model_that_gets(
        weights_with_tools, replies.openai_body("".join(tokens), logprobs=items)
    )
    answer = await ask(model, tools=(WEATHER,), logprobs=True)
    assert answer.call_logprobs is not None
    assert [token.token for token in answer.call_logprobs] == ["weather", "Rome"]


async def test_no_piece_of_a_call_is_streamed_as_text(weights_with_tools: Path) -> None:
    model = model_that_gets(weights_with_tools, *in_pieces(CALL))
    pieces, answer = await ask_in_pieces(model, tools=(WEATHER,))
    assert pieces == []
    assert answer is not None
    assert answer.tool_calls


async def test_what_only_begins_like_a_call_is_streamed_in_the_end(
    weights_with_tools: Path,
) -> None:
    said = '{"city": "Rome", "sunny": true}'
    model = model_that_gets(weights_with_tools, *in_pieces(said))
    pieces, answer = await ask_in_pieces(model, tools=(WEATHER,))
    assert pieces == [said]
    assert answer is not None
    assert (answer.text, answer.tool_calls) == (said, ())


async def test_an_answer_in_words_is_streamed_as_it_comes(weights_with_tools: Path) -> None:
    model = model_that_gets(weights_with_tools, *in_pieces("It is sunny in Rome."))
    pieces, _ = await ask_in_pieces(model, tools=(WEATHER,))
    assert pieces == ["It is sun", "ny in Rom", "e."]


@pytest.mark.parametrize("settings", [{}, {"tools": (WEATHER,), "tool_choice": "none"}])
async def test_where_nothing_may_be_called_a_call_is_a_text(
    weights_with_tools: Path, settings: dict[str, Any]
) -> None:
    model = model_that_gets(weights_with_tools, *in_pieces(CALL))
    answer = await ask(model, **settings)
    assert (answer.text, answer.tool_calls) == (CALL, ())


async def test_a_template_that_knows_tools_gets_them(weights_with_tools: Path) -> None:
    model = model_that_gets(weights_with_tools, *in_pieces("Hello"))
    await ask(model, tools=(WEATHER,))
    assert sent(model)["tools"] == [WEATHER]
    assert [message["role"] for message in sent(model)["messages"]] == ["user"]


async def test_a_template_that_knows_no_tools_gets_them_as_text(weights: Path) -> None:
    model = model_that_gets(weights, *in_pieces("Hello"))
    await ask(model, tools=(WEATHER,))
    assert "tools" not in sent(model)
    system, _ = sent(model)["messages"]
    assert '"name": "weather"' in system["content"]


async def test_tools_that_must_not_be_called_are_not_told(weights: Path) -> None:
    model = model_that_gets(weights, *in_pieces("Hello"))
    await ask(model, tools=(WEATHER,), tool_choice="none")
    assert [message["role"] for message in sent(model)["messages"]] == ["user"]
    assert not {"tools", "tool_choice"} & sent(model).keys()


async def test_a_forced_call_is_held_to_its_form(weights_with_tools: Path) -> None:
    model = model_that_gets(weights_with_tools, *in_pieces(CALL))
    await ask(model, tools=(WEATHER,), tool_choice="weather")
    assert sent(model)["response_format"]["json_schema"]["schema"]["anyOf"]
    assert "tool_choice" not in sent(model)


async def test_a_forced_call_beside_a_schema_is_left_to_llamacpp(weights_with_tools: Path) -> None:
    model = model_that_gets(weights_with_tools, *in_pieces("{}"))
    await ask(model, tools=(WEATHER,), tool_choice="required", schema={"type": "object"})
    assert sent(model)["tool_choice"] == "required"
