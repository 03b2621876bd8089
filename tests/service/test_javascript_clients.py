"""The official clients for JavaScript of OpenAI and Ollama, unchanged, against the gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from environments import NoEnvironmentError

from tests.servers.fake import Received
from tests.service.foreign import (
    NODE_PACKAGES,
    Heard,
    asked_for,
    environment,
    gateway_for_clients,
    run_node,
)
from tests.service.gateway import until
from tests.service.talking import HELLO

PARIS = {"name": "Paris", "people": 2100000}


@pytest.fixture(scope="module")
def modules() -> Path:
    try:
        return environment(NODE_PACKAGES)
    except NoEnvironmentError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def heard(modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Heard:
    """What OpenAI's client did, once."""
    folder = tmp_path_factory.mktemp("openai")

    async def work() -> Heard:
        async with gateway_for_clients(folder) as (talk, told):
            received = talk.upstream.received

            async def reached(kind: Any) -> None:
                await until(lambda: asked_for(f"hang {kind}", received), f"{kind}: the call")

            found = await run_node("openai_client.mjs", modules, folder, told, reached)
            await stopped(received)
            return Heard(found, received)

    return asyncio.run(work())


async def stopped(received: list[Received]) -> None:
    """Wait until the upstream has noticed, before the gateway goes and takes its calls along."""
    (*_, last) = asked_for("hang stream", received)
    await until(last.left.is_set, "the end of the aborted call")


@pytest.fixture(scope="module")
def ollama_heard(modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Heard:
    """What Ollama's client did, once."""
    folder = tmp_path_factory.mktemp("ollama")

    async def work() -> Heard:
        async with gateway_for_clients(folder) as (talk, told):
            told["BASE_URL"] = told["BASE_URL"].removesuffix("/v1")
            found = await run_node("ollama_client.mjs", modules, folder, told)
            await stopped(talk.upstream.received)
            return Heard(found, talk.upstream.received)

    return asyncio.run(work())


def test_an_answer_comes_with_who_gave_it(heard: Heard) -> None:
    told = heard.told["plain"]
    assert (told["content"], told["finish"], told["tier"]) == (HELLO, "stop", "large")
    assert told["usage"]["completion_tokens"] == 8
    assert told["run"] == told["header"]


def test_models_are_listed(heard: Heard) -> None:
    assert heard.told["models"] == {"names": ["support"], "one": "support"}


def test_a_stream_ends_with_its_usage(heard: Heard) -> None:
    told = heard.told["stream"]
    assert (told["text"], told["finish"], told["usage"]["total_tokens"]) == (HELLO, "stop", 9)


def test_the_helper_for_streams_hears_each_piece(heard: Heard) -> None:
    told = heard.told["stream_helper"]
    assert told["text"] == HELLO == "".join(told["heard"])


def test_tools_are_called_and_their_results_read(heard: Heard) -> None:
    told = heard.told["tools"]
    assert told["finish_reason"] == "tool_calls"
    assert told["call"]["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert told["then"] == HELLO


def test_the_runner_of_tools_runs_streamed(heard: Heard) -> None:
    assert heard.told["run_tools"] == {"text": HELLO, "asked": ["Oslo"]}


@pytest.mark.parametrize("part", ["schema", "structured", "structured_stream", "responses_parse"])
def test_an_answer_keeps_to_a_schema(heard: Heard, part: str) -> None:
    assert heard.told[part] == PARIS


def test_what_the_gateway_has_no_use_for_reaches_the_tier(heard: Heard) -> None:
    assert heard.told["usual_parameters"] == HELLO
    (body,) = [one.body for one in heard.received if one.body.get("safety_identifier") == "hashed"][
        -1:
    ]
    sent = {
        "frequency_penalty": 0.1,
        "logit_bias": {"50256": -100},
        "metadata": {"ticket": "7"},
        "prompt_cache_key": "of-the-user",
        "reasoning_effort": "low",
        "service_tier": "auto",
        "store": False,
        "user": "ada",
        "verbosity": "low",
    }
    assert {name: body.get(name) for name in sent} == sent


def test_responses_go_on_from_the_one_before(heard: Heard) -> None:
    assert heard.told["responses"] == {"text": HELLO, "then": HELLO, "kept": HELLO}


def test_responses_are_streamed_as_the_helper_reads_them(heard: Heard) -> None:
    told = heard.told["responses_stream"]
    assert told["text"] == HELLO
    assert told["kinds"][0] == "response.created"
    assert told["kinds"][-1] == "response.completed"
    assert told["kinds"].count("response.output_text.delta") == 8


def test_responses_call_tools(heard: Heard) -> None:
    told = heard.told["responses_tools"]
    assert told == {"name": "weather", "arguments": '{"city": "Oslo"}', "then": HELLO}


@pytest.mark.parametrize(
    ("case", "kind", "status", "code"),
    [
        ("key", "AuthenticationError", 401, "invalid_api_key"),
        ("model", "NotFoundError", 404, "model_not_found"),
        ("value", "BadRequestError", 400, "invalid_value"),
        ("parameter", "BadRequestError", 400, "unsupported_parameter"),
        ("rate", "RateLimitError", 429, "rate_limit_exceeded"),
        ("upstream_rate", "RateLimitError", 429, "upstream_rate_limit"),
        ("upstream", "InternalServerError", 502, "upstream_failed"),
    ],
)
def test_an_error_is_of_the_clients_own_class(
    heard: Heard, case: str, kind: str, status: int, code: str
) -> None:
    told = heard.told["errors"][case]
    assert (told["class"], told["status"], told["code"]) == (kind, status, code)


def test_who_asks_too_often_is_told_how_long_to_wait(heard: Heard) -> None:
    errors = heard.told["errors"]
    assert 0 < int(errors["rate"]["wait"]) <= 60
    assert errors["upstream_rate"]["wait"] == "600"


def test_a_request_that_is_aborted_stops_the_call_of_the_draft(heard: Heard) -> None:
    assert heard.told["abort_plain"] == "APIUserAbortError"
    (call,) = asked_for("hang plain", heard.received)
    assert (call.body["model"], call.left.is_set()) == ("small", True)


def test_a_stream_that_is_aborted_stops_the_call_of_the_large_model(heard: Heard) -> None:
    assert heard.told["abort_stream"] == ["Well"]
    draft, call = asked_for("hang stream", heard.received)
    assert (draft.body["model"], draft.left.is_set()) == ("small", False)
    assert (call.body["model"], call.left.is_set()) == ("large", True)


def test_ollamas_client_finds_the_cascade(ollama_heard: Heard) -> None:
    assert ollama_heard.told["list"] == ["support"]
    assert "tools" in ollama_heard.told["show"]


def test_ollamas_client_chats(ollama_heard: Heard) -> None:
    told = ollama_heard.told["chat"]
    assert told["message"]["content"] == HELLO
    assert (told["done"], told["done_reason"], told["eval_count"]) == (True, "stop", 8)


def test_ollamas_client_streams_a_chat(ollama_heard: Heard) -> None:
    told = ollama_heard.told["chat_stream"]
    assert (told["text"], told["done"]) == (HELLO, True)
    assert told["tier"] in ("small", "large")


def test_ollamas_client_generates(ollama_heard: Heard) -> None:
    assert ollama_heard.told["generate"] == {"response": HELLO, "done": True}
    assert ollama_heard.told["generate_stream"] == HELLO


def test_ollamas_client_calls_tools(ollama_heard: Heard) -> None:
    told = ollama_heard.told["tools"]
    assert told["call"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert told["then"] == HELLO


def test_ollamas_client_has_its_schema_kept_to(ollama_heard: Heard) -> None:
    assert ollama_heard.told["structured"] == PARIS


def test_ollamas_client_raises_its_own_error(ollama_heard: Heard) -> None:
    told = ollama_heard.told["unknown_model"]
    assert (told["class"], told["status"]) == ("ResponseError", 404)
    assert "there is no model 'none'" in told["message"]


def test_ollamas_client_stops_a_call_by_aborting(ollama_heard: Heard) -> None:
    assert ollama_heard.told["abort"] == "AbortError"
    *_, call = asked_for("hang stream", ollama_heard.received)
    assert (call.body["model"], call.left.is_set()) == ("large", True)
