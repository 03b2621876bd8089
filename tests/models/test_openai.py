"""What `openai:` models send and read."""

from __future__ import annotations

import json
import math

import pytest
from langchain_core.messages import HumanMessage

from cascade.errors import InputError
from cascade.models import Request
from cascade.models.openai import OpenAIModel
from cascade.state import TokenLogprob, Usage
from tests.acceptance.upstream import Answer, Upstream, spelled
from tests.models.asking import ask, ask_in_pieces, question, score
from tests.servers import replies

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CLOSED = {
    "title": "City name",
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


# What is sent


async def test_every_setting_reaches_the_server_and_nothing_else(
    openai_model: OpenAIModel, server: Upstream
) -> None:
    await ask(openai_model)
    assert set(server.last.body) == {"model", "messages"}
    plain = {"max_tokens": 5, "temperature": 0.0, "seed": 1, "logprobs": True, "top_logprobs": 3}
    more = {"tools": (WEATHER,), "tool_choice": "weather", "schema": CLOSED}
    await ask(openai_model, **plain, **more, stop=("\n",), extra={"top_p": 0.5})
    schema = {"name": "City_name", "schema": CLOSED, "strict": True}
    assert server.last.body == {
        **plain,
        "model": "small-1",
        "messages": [{"role": "user", "content": "Capital of France?"}],
        "stop": ["\n"],
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {"type": "json_schema", "json_schema": schema},
        "top_p": 0.5,
    }


async def test_a_reasoning_model_has_another_limit_and_options_go_with_every_request(
    server: Upstream,
) -> None:
    options = {"top_p": 0.1, "n": 1, "max_tokens": 5}
    model = OpenAIModel("org/gpt-5.1", base_url=server.openai_url, options=options)
    assert not model.returns_logprobs
    assert model.payload(question())["max_completion_tokens"] == 5
    await ask(model, max_tokens=7, extra={"top_p": 0.9})
    sent = {name: value for name, value in server.last.body.items() if name != "messages"}
    assert sent == {"model": "org/gpt-5.1", "max_completion_tokens": 7, "top_p": 0.9, "n": 1}
    await model.aclose()


@pytest.mark.parametrize(
    "request_",
    [
        question(extra={"x": object()}),
        Request((HumanMessage([{"type": "tool_use", "input": {}}]),)),
    ],
)
async def test_what_cannot_be_sent_is_an_error_of_the_input(
    request_: Request, openai_model: OpenAIModel, server: Upstream
) -> None:
    with pytest.raises(InputError):
        await openai_model.complete(request_)
    assert server.seen == []


# What is read


async def test_a_stream_carries_the_whole_completion_at_its_end(
    openai_model: OpenAIModel, server: Upstream
) -> None:
    whole = json.dumps(replies.openai_body("In one pi\ud83dece"))  # half of a character in it
    told = Answer("Par is", items=spelled("Par is", -0.1), tokens=(10, 2))
    server.will(told, replies.text_reply(whole, content_type="text/plain"))
    pieces, answer = await ask_in_pieces(openai_model, logprobs=True)
    assert (pieces, answer.text) == (["Par", " is"], "Par is")
    assert answer.usage == Usage(input_tokens=10, output_tokens=2)
    assert answer.logprobs == (TokenLogprob("Par", -0.1), TokenLogprob(" is", -0.1))
    assert server.last.body["stream_options"] == {"include_usage": True}
    assert (await ask_in_pieces(openai_model, "🏛" * 2**20))[0] == ["In one pi\ud83dece"]
    assert server.last.body["messages"][0]["content"] == "🏛" * 2**20, "megabytes"


async def test_an_event_may_have_several_lines_or_nothing_to_say(
    openai_model: OpenAIModel, server: Upstream
) -> None:
    said = {"choices": [{"delta": {"content": "Paris"}, "finish_reason": "stop"}]}
    lines = json.dumps(said, indent=1).replace("\n", "\r\ndata: ")
    server.will(replies.text_reply(f"data:\r\n\r\ndata: {lines}\r\n\r\ndata: [DONE]\r\n\r\n"))
    assert (await ask_in_pieces(openai_model))[1].text == "Paris"


async def test_of_counts_that_come_with_each_piece_the_last_ones_hold(
    openai_model: OpenAIModel, server: Upstream
) -> None:
    begun = {"usage": {"prompt_tokens": 10, "completion_tokens": 0}}
    said = {"choices": [{"delta": {"content": "Paris"}, "finish_reason": "stop"}], **begun}
    last = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 7}}
    lines = "\n\n".join(f"data: {json.dumps(each)}" for each in (said, last))
    server.will(replies.text_reply(f"{lines}\n\ndata: [DONE]\n\n"))
    _, answer = await ask_in_pieces(openai_model)
    assert answer.usage == Usage(input_tokens=10, output_tokens=7)


@pytest.mark.parametrize(
    ("timings", "busy_ms"),
    [
        (None, None),
        ({"prompt_ms": 2, "predicted_ms": 3.5}, 5.5),
        ({"predicted_ms": 3}, 3),
        ({"prompt_ms": 2, "predicted_ms": -1}, None),
        ({"prompt_ms": math.nan, "predicted_ms": 1}, None),
        ({"prompt_ms": 10**9}, None),
    ],
)
async def test_the_time_that_a_server_computed_is_known_where_it_tells_one_that_can_be_true(
    timings: object, busy_ms: float | None, openai_model: OpenAIModel, server: Upstream
) -> None:
    server.will(replies.json_reply({**replies.openai_body(), "timings": timings}))
    assert (await ask(openai_model)).busy_ms == busy_ms


def counts(given: object, made: object = None, **rest: object) -> dict[str, object]:
    return {"prompt_tokens": given, "completion_tokens": made, **rest}


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ("much", {}),
        (counts(5, prompt_tokens_details={"cached_tokens": 9}), {"cached_tokens": 9}),
        (
            counts(None, 5, completion_tokens_details={"reasoning_tokens": 9}),
            {"reasoning_tokens": 9},
        ),
        (  # xAI, Gemini: reasoning beside the output
            counts(10, 5, total_tokens=24, completion_tokens_details={"reasoning_tokens": 9}),
            {"input_tokens": 10, "output_tokens": 14, "reasoning_tokens": 9},
        ),
        (  # LiteLLM
            counts(12, prompt_tokens_details={"cache_creation_tokens": 11}),
            {"input_tokens": 12, "cache_write_tokens": 11},
        ),
    ],
)
async def test_counts_that_cannot_be_true_are_unknown(
    usage: object, read: dict[str, int], openai_model: OpenAIModel, server: Upstream
) -> None:
    server.will(replies.openai_reply("Paris", usage=usage))
    assert (await ask(openai_model)).usage == Usage(**read)


async def test_tool_calls_in_pieces_are_read(openai_model: OpenAIModel, server: Upstream) -> None:
    def part(index: int, **function: str) -> dict[str, object]:
        return replies.openai_delta(tool_calls=[{"index": index, "function": function}])

    named, begun, ended = part(0, name="weather"), '{"city":', '"Paris"}'
    chunks = [named, part(0, arguments=begun), part(0, arguments=ended), part(1, name="now")]
    server.will(replies.sse([*chunks, replies.openai_delta("tool_calls")]))
    pieces, answer = await ask_in_pieces(openai_model)
    called = [(call["name"], call["args"]) for call in answer.tool_calls]
    assert (pieces, called) == ([], [("weather", {"city": "Paris"}), ("now", {})])
    assert str(answer.tool_calls[0]["id"]).startswith("call_")


# Addresses and keys


async def test_the_key_of_the_environment_is_sent(
    server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    model = OpenAIModel("m", base_url=server.openai_url)
    await ask(model)
    assert server.last.headers["authorization"] == "Bearer from-environment"
    await model.aclose()


HERE = ["http://localhost:1/v1", "http://127.8.0.1/v1", "http://0.0.0.0:1/v1"]
ELSEWHERE = ["http://localhost.example.com/v1", "https://api.openai.com/v1"]


@pytest.mark.parametrize("url", [*HERE, *ELSEWHERE])
def test_it_is_known_whether_requests_stay_on_this_machine(url: str) -> None:
    opened = OpenAIModel("m", base_url=url, api_key="k")
    assert (opened.local, opened.server) == (url in HERE, url)
    assert not OpenAIModel("gpt-oss:120b-cloud", base_url=url, api_key="k").local


# Scores


async def test_a_given_answer_is_scored_in_one_pass(
    openai_model: OpenAIModel, server: Upstream
) -> None:
    # vLLM: nothing for the first token of a prompt, then each by its id
    said = (("Paris?", -9.0), ("<end>", -1.0), ("Par", -0.5), ("is", -0.25))
    places = [{str(n): {"decoded_token": t, "logprob": p}} for n, (t, p) in enumerate(said)]
    reply = {**replies.openai_body("!"), "prompt_logprobs": [None, *places]}
    server.will(replies.json_reply(reply))
    answer = await ask(openai_model, "Paris?", answer="Paris", max_tokens=9, logprobs=True)
    assert answer.logprobs == (TokenLogprob("Par", -0.5), TokenLogprob("is", -0.25))
    assert (answer.text, answer.usage.input_tokens) == ("Paris", 10)
    sent = server.last.body
    assert sent["messages"][-1] == {"role": "assistant", "content": "Paris"}
    assert (sent["prompt_logprobs"], sent["max_tokens"]) == (0, 1)
    assert "logprobs" not in sent
    assert await score(openai_model, "Paris") is None, "the server returns none of a prompt"
