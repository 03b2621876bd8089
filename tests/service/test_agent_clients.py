"""OpenAI's Agents SDK and LangChain's `ChatOpenAI`, unchanged, against the gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from environments import NoEnvironmentError

from tests.service.foreign import (
    PYTHON_PACKAGES,
    SCRIPTS,
    Heard,
    environment,
    gateway_for_clients,
    run_client,
)
from tests.service.talking import HELLO

PARIS = {"name": "Paris", "people": 2100000}
TOOL = ["tool_call_item", "tool_call_output_item", "message_output_item"]

both = pytest.mark.parametrize("api", ["chat", "responses"])


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return environment(PYTHON_PACKAGES)
    except NoEnvironmentError as error:
        pytest.skip(str(error))


def run(script: str, python: Path, folder: Path) -> Heard:
    async def work() -> Heard:
        async with gateway_for_clients(folder) as (talk, told):
            # -P: a folder of the repository has the name of the SDK's package.
            told |= {"LANGSMITH_TRACING": "false", "PYTHONWARNINGS": "default"}
            found = await run_client([python, "-P", SCRIPTS / script], folder, told)
            return Heard(found, talk.upstream.received)

    return asyncio.run(work())


@pytest.fixture(scope="module")
def agents_sdk(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the Agents SDK did, once."""
    return run("agents_sdk.py", python, tmp_path_factory.mktemp("agents")).told


@pytest.fixture(scope="module")
def langchain(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What LangChain did, once."""
    return run("langchain_agent.py", python, tmp_path_factory.mktemp("langchain")).told


@both
def test_an_agent_of_the_sdk_calls_its_tool_and_answers(
    agents_sdk: dict[str, Any], api: str
) -> None:
    told = agents_sdk[f"{api} plain"]
    assert (told["items"], told["tool"], told["answer"]) == (TOOL, ["Oslo: rain"], HELLO)


@both
def test_the_sdk_counts_the_tokens_of_each_call(agents_sdk: dict[str, Any], api: str) -> None:
    requests, prompt, answer = agents_sdk[f"{api} plain"]["usage"]
    assert requests == 2
    assert prompt > 2
    assert answer == 9 + 8  # the call, and the answer


@both
def test_an_agent_of_the_sdk_streams(agents_sdk: dict[str, Any], api: str) -> None:
    told = agents_sdk[f"{api} stream"]
    assert (told["items"], told["tool"]) == (TOOL, ["Oslo: rain"])
    assert "".join(told["words"]) == HELLO == told["answer"]
    assert len(told["words"]) > 1


@both
def test_the_sdk_has_the_usage_of_a_stream_it_asks_for(
    agents_sdk: dict[str, Any], api: str
) -> None:
    assert agents_sdk[f"{api} stream_usage"] == [1, 2, 8]


@both
def test_the_sdk_reads_a_typed_answer(agents_sdk: dict[str, Any], api: str) -> None:
    assert agents_sdk[f"{api} structured"] == PARIS


@both
def test_the_sdk_hands_over_to_another_agent(agents_sdk: dict[str, Any], api: str) -> None:
    told = agents_sdk[f"{api} handoff"]
    assert told["items"][0] == "handoff_call_item"
    assert (told["agent"], told["answer"]) == ("Expert", HELLO)


@both
def test_the_sdk_keeps_a_conversation(agents_sdk: dict[str, Any], api: str) -> None:
    roles = ["user", "assistant", "user", "assistant"]
    assert agents_sdk[f"{api} session"] == [HELLO, HELLO, *roles]


@both
def test_settings_of_an_agent_of_the_sdk_are_taken(agents_sdk: dict[str, Any], api: str) -> None:
    assert agents_sdk[f"{api} settings"] == HELLO


def test_the_sdk_goes_on_from_a_stored_answer(agents_sdk: dict[str, Any]) -> None:
    assert agents_sdk["responses server_side"] == HELLO


@both
def test_the_chat_model_answers_with_usage(langchain: dict[str, Any], api: str) -> None:
    assert langchain[f"{api} plain"] == {"text": HELLO, "usage": [1, 8]}


@both
def test_the_chat_model_streams_with_usage(langchain: dict[str, Any], api: str) -> None:
    told = langchain[f"{api} stream"]
    assert "".join(told["words"]) == HELLO
    assert len(told["words"]) > 1
    assert told["usage"] == [1, 8]


@both
@pytest.mark.parametrize("part", ["structured", "structured_by_tool", "agent_structured"])
def test_a_typed_answer_is_read(langchain: dict[str, Any], api: str, part: str) -> None:
    assert langchain[f"{api} {part}"] == PARIS


@both
def test_an_agent_of_langchain_calls_its_tool_and_answers(
    langchain: dict[str, Any], api: str
) -> None:
    assert langchain[f"{api} agent"] == {
        "types": ["human", "ai", "tool", "ai"],
        "tool": "Oslo: rain",
        "answer": HELLO,
        "usage": [True, True],
    }


@both
def test_an_agent_of_langchain_streams(langchain: dict[str, Any], api: str) -> None:
    told = langchain[f"{api} agent_stream"]
    assert told["nodes"] == ["model", "tools", "model"]
    assert "".join(told["words"]) == HELLO


@both
def test_langchain_raises_its_own_errors(langchain: dict[str, Any], api: str) -> None:
    assert langchain[f"{api} errors"] == [
        ["OpenAIModelNotFoundError", "model_not_found"],
        ["OpenAIAuthenticationError", "invalid_api_key"],
    ]
