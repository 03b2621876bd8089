"""LangChain's own clients against real HTTP servers."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from cascade.errors import ModelUnavailableError
from cascade.models import Model, Request, open_model
from cascade.state import TokenLogprob, Usage
from tests.acceptance.upstream import Upstream
from tests.models.asking import ask
from tests.servers import replies

openai = pytest.importorskip("langchain_openai", reason="pip install langchain-openai")
anthropic = pytest.importorskip("langchain_anthropic", reason="pip install langchain-anthropic")

# Its clients hold connections of the background loop until the process ends.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def chat_openai(server: Upstream, **settings: Any) -> Any:
    given = {"model": "small-1", "base_url": server.openai_url, "api_key": "k", **settings}
    return openai.ChatOpenAI(**given)


def chat_anthropic(server: Upstream, **settings: Any) -> Any:
    return anthropic.ChatAnthropic(model="claude", base_url=server.url, api_key="k", **settings)


@pytest.fixture(params=["openai", "anthropic", "by name"])
def each(request: pytest.FixtureRequest, server: Upstream) -> Model:
    if request.param == "by name":
        return open_model("anthropic:claude", base_url=server.url, api_key="k")
    return open_model({"openai": chat_openai, "anthropic": chat_anthropic}[request.param](server))


async def test_a_request_is_sent_once(each: Model, server: Upstream) -> None:
    server.will(*[replies.error(500, "broken")] * 3)
    with pytest.raises(ModelUnavailableError) as caught:
        await ask(each)
    assert caught.value.billed is None
    assert len(server.seen) == 1


async def test_the_users_own_chat_model_goes_on_to_retry(server: Upstream) -> None:
    chat = chat_openai(server)
    open_model(chat)
    server.will(replies.error(500, "broken", headers={"retry-after-ms": "1"}))
    assert (await chat.ainvoke("hi")).text == "HI"
    assert len(server.seen) == 2


async def test_chat_openai_is_asked_for_log_probabilities(server: Upstream) -> None:
    model = open_model(chat_openai(server))
    assert model.returns_logprobs
    tokens = [{"token": "Paris", "logprob": -0.5, "bytes": None, "top_logprobs": []}]
    server.will(replies.openai_reply("Paris", logprobs=tokens))
    answer = await ask(model, logprobs=True, top_logprobs=2)
    assert answer.logprobs == (TokenLogprob("Paris", -0.5),)
    assert (server.last.body["logprobs"], server.last.body["top_logprobs"]) == (True, 2)
    await ask(model)
    assert not server.last.body.get("logprobs")


async def test_cache_control_reaches_anthropic_and_cache_writes_are_read(server: Upstream) -> None:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 30},
    }
    server.will(replies.json_reply(replies.anthropic_body("Paris", **usage)))
    text = {"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    request = Request((SystemMessage([text]), HumanMessage("?")))
    answer = await open_model(chat_anthropic(server)).complete(request)
    assert server.last.body["system"] == [text]
    assert answer.usage == Usage(
        input_tokens=114,
        output_tokens=2,
        cached_tokens=4,
        cache_write_tokens=100,
        cache_write_1h_tokens=30,
    )


def test_the_address_of_a_chat_model_is_known(server: Upstream) -> None:
    ours, theirs = open_model(chat_openai(server)), open_model(openai.ChatOpenAI(api_key="k"))
    assert (ours.provider, ours.local) == ("openai", True)
    assert (str(ours.server).rstrip("/"), ours.secrets) == (server.openai_url, ("k",))
    assert (str(theirs.server), theirs.local) == ("https://api.openai.com/v1/", False)
    assert open_model(chat_anthropic(server)).local
    claude = open_model(anthropic.ChatAnthropic(model="claude-sonnet-4-5", api_key="k"))
    assert (claude.name, claude.local) == ("anthropic:claude-sonnet-4-5", False)
    assert claude.server == "https://api.anthropic.com"
