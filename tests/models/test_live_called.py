"""Tool calls of a real model behind llama.cpp's own server, and which of their tokens count."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from cascade import Cascade, Tier
from cascade.errors import ModelNotFoundError
from cascade.models import Request, open_model
from cascade.models.llamacpp import find_weights
from cascade.models.openai import OpenAIModel
from cascade.testing import ScriptedModel
from tests.servers.llamacpp import HERMES, LlamaCppServer

pytest.importorskip("xllamacpp", reason='pip install "agent-cascade[llamacpp]"')
try:
    WEIGHTS = find_weights("smollm2-135m")
except ModelNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.live

SEARCH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "search for something",
        "parameters": {
            "type": "object",
            "properties": {"q": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["q", "n"],
        },
    },
}


def conversation(asked: str) -> tuple[BaseMessage, ...]:
    """Three calls that show how it is done, and a question."""
    shown: list[BaseMessage] = []
    for q in ("Rome", "Oslo", "Lima"):
        call = {"name": "search", "args": {"q": q, "n": 3}, "id": q, "type": "tool_call"}
        shown += [HumanMessage(f"search for {q}"), AIMessage("", tool_calls=[call])]
    return (*shown, HumanMessage(f"search for {asked}"))


@pytest.fixture(scope="module")
def server() -> LlamaCppServer:
    return LlamaCppServer(WEIGHTS, chat_template=HERMES)


@pytest.fixture
async def model(server: LlamaCppServer) -> AsyncIterator[OpenAIModel]:
    opened = OpenAIModel("any", base_url=server.openai_url, api_key=server.api_key)
    yield opened
    await opened.aclose()


async def test_name_and_values_of_a_real_call_are_found(model: OpenAIModel) -> None:
    request = Request(
        conversation("Paris"), max_tokens=60, temperature=0, logprobs=True, tools=(SEARCH,)
    )
    answer = await model.complete(request)
    (call,) = answer.tool_calls
    assert answer.call_logprobs is not None
    spelled = "".join(token.token for token in answer.call_logprobs)
    assert spelled.replace(" ", "") == f"search{call['args']['q']}{call['args']['n']}"
    assert answer.logprobs is None, "the answer has no text"


async def test_punctuation_would_have_made_a_doubtful_call_look_sure(model: OpenAIModel) -> None:
    """The model does not know how to spell the city, and is sure of the JSON around it."""
    request = Request(
        conversation("Köln"), max_tokens=60, temperature=0, logprobs=True, tools=(SEARCH,)
    )
    client = (await model._links.get()).client
    reply: Any = await client.post("/chat/completions", cast_to=object, body=model.payload(request))
    (choice,) = reply["choices"]
    args = json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
    assert args["q"] != "Köln"
    all_tokens = [item["logprob"] for item in choice["logprobs"]["content"]]
    assert math.exp(math.fsum(all_tokens) / len(all_tokens)) > 0.8
    small = Tier(model, name="small", max_tokens=60, temperature=0)
    cascade = Cascade(small, ScriptedModel(["large"]), tools=[SEARCH])
    result = await cascade.ainvoke(list(conversation("Köln")))
    assert result.confidence is not None
    assert result.confidence < 0.8
    assert result.tier == "large"


@pytest.mark.parametrize("asked", ["Köln", 'the "Blue Note"'])
async def test_a_call_that_the_model_in_this_process_has_to_make_is_found(asked: str) -> None:
    model = open_model("llamacpp:smollm2-135m")
    question = (HumanMessage(f"search for {asked}"),)
    settings: dict[str, Any] = {"max_tokens": 60, "temperature": 0, "logprobs": True}
    request = Request(question, tools=(SEARCH,), tool_choice="required", **settings)
    answer = await model.complete(request)
    await model.aclose()
    (call,) = answer.tool_calls
    assert call["name"] == "search"
    assert answer.call_logprobs is not None
    assert answer.call_logprobs == answer.decisive_logprobs
    spelled = "".join(token.token for token in answer.call_logprobs)
    assert "search" in spelled
    assert str(call["args"]["n"]) in spelled
