"""Ollama's API through its official client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ollama
import pytest
from pydantic import BaseModel

from cascade.service.protocols import replying
from tests.servers import replies
from tests.service.talking import ASKED, HELLO, talking


class City(BaseModel):
    """A city."""

    name: str
    people: int


def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name.
    """
    return f"sunny in {city}"


async def test_a_chat_is_answered_with_its_counts(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        answer = await talk.ollama.chat("support", ASKED)
        assert answer.message.content == HELLO
        assert (answer.done, answer.done_reason) == (True, "stop")
        assert (answer.prompt_eval_count, answer.eval_count) == (1, 8)
        body = (await talk.post("/api/chat", messages=ASKED, stream=False)).json()
        assert body["cascade"]["tier"] == "small"


async def test_a_stream_is_the_usual_and_its_last_line_has_the_report(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        parts = [part async for part in await talk.ollama.chat("support", ASKED, stream=True)]
        assert "".join(part.message.content or "" for part in parts) == HELLO
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
        response = await talk.post("/api/chat", messages=ASKED)
        lines = [json.loads(line) for line in response.text.splitlines()]
        assert lines[-1]["cascade"]["tier"] == "small"
        assert response.headers["content-type"] == "application/x-ndjson"


async def test_a_prompt_is_answered(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        answer = await talk.ollama.generate("support", "hi", system="Be kind.")
        assert answer.response == HELLO
        sent = talk.upstream.last.body["messages"]
        assert [message["role"] for message in sent] == ["system", "user"]
        parts = [part async for part in await talk.ollama.generate("support", "hi", stream=True)]
        assert "".join(part.response or "" for part in parts) == HELLO


async def test_an_empty_request_is_how_clients_have_a_model_loaded(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        for path in ("/api/chat", "/api/generate"):
            answer = (await talk.post(path)).json()
            assert (answer["done"], answer["done_reason"]) == (True, "load")
        assert talk.upstream.received == []
        assert (await talk.post("/api/chat", model="nope")).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_and_their_results_answered(tmp_path: Path, stream: bool) -> None:
    async with talking(tmp_path) as talk:
        asked: list[Any] = [{"role": "user", "content": "How is it in 'Paris'?"}]
        if stream:
            parts = [
                part
                async for part in await talk.ollama.chat(
                    "support", asked, tools=[weather], stream=True
                )
            ]
            message = next(part.message for part in parts if part.message.tool_calls)
        else:
            message = (await talk.ollama.chat("support", asked, tools=[weather])).message
        (call,) = message.tool_calls or []
        assert (call.function.name, call.function.arguments) == ("weather", {"city": "Paris"})
        asked += [message, {"role": "tool", "tool_name": "weather", "content": "sunny"}]
        answer = await talk.ollama.chat("support", asked, tools=[weather])
        assert answer.message.content == HELLO
        told = talk.upstream.last.body["messages"]
        assert told[1]["tool_calls"][0]["id"] == told[2]["tool_call_id"]


async def test_a_result_without_a_call_is_refused(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        asked = [*ASKED, {"role": "tool", "tool_name": "weather", "content": "sunny"}]
        with pytest.raises(ollama.ResponseError, match="no call before it") as refused:
            await talk.ollama.chat("support", asked)
        assert refused.value.status_code == 400


async def test_the_answer_keeps_to_a_format(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        asked = [{"role": "user", "content": "'Paris' has 2 people"}]
        answer = await talk.ollama.chat("support", asked, format=City.model_json_schema())
        assert City.model_validate_json(answer.message.content or "") == City(
            name="Paris", people=2
        )
        asked = [{"role": "user", "content": "JSON with 'animal'"}]
        answer = await talk.ollama.chat("support", asked, format="json")
        assert json.loads(answer.message.content or "") == {"animal": "a cat"}


async def test_pictures_go_to_the_tiers(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        asked = [{"role": "user", "content": "What is this?", "images": ["/9j/4AAQ"]}]
        response = await talk.post("/api/chat", messages=asked, stream=False)
        assert response.status_code == 200, response.text
        parts = talk.upstream.last.body["messages"][0]["content"]
        assert parts[1]["image_url"]["url"] == "data:image/jpeg;base64,/9j/4AAQ"


OPTIONS: dict[str, tuple[Any, str, Any]] = {
    "temperature": (0.5, "temperature", 0.5),
    "num_predict": (12, "max_tokens", 12),
    "seed": (7, "seed", 7),
    "stop": (["x"], "stop", ["x"]),
    "top_p": (0.9, "top_p", 0.9),
    "top_k": (4, "top_k", 4),
    "repeat_penalty": (1.1, "repeat_penalty", 1.1),
}


@pytest.mark.parametrize("name", OPTIONS)
async def test_every_option_reaches_both_tiers(tmp_path: Path, name: str) -> None:
    value, as_sent, sent = OPTIONS[name]
    async with talking(tmp_path) as talk:
        await talk.ollama.chat("support", ASKED, options={name: value})
        assert [request.body[as_sent] for request in talk.upstream.received] == [sent, sent]


async def test_no_limit_of_length_is_none(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        await talk.ollama.chat("support", ASKED, options={"num_predict": -1})
        assert "max_tokens" not in talk.upstream.last.body


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("/api/chat", {"keep_alive": "5m"}, "keep_alive"),
    ("/api/chat", {"think": True}, "think"),
    ("/api/chat", {"options": {"num_ctx": 5}}, "num_ctx"),
    ("/api/chat", {"options": {"num_predict": "many"}}, "num_predict"),
    ("/api/chat", {"of_my_own": 1}, "of_my_own"),
    ("/api/chat", {"cascade": {"show": "optimistic"}}, "show"),
    ("/api/generate", {"prompt": "x", "suffix": "y"}, "suffix"),
    ("/api/generate", {"prompt": "x", "template": "y"}, "template"),
    ("/api/generate", {"prompt": "x", "context": [1]}, "context"),
    ("/api/generate", {"prompt": "x", "raw": True}, "raw"),
]


@pytest.mark.parametrize(("path", "given", "named"), REFUSED, ids=lambda value: str(value)[:40])
async def test_what_cannot_be_obeyed_is_refused_by_name(
    tmp_path: Path, path: str, given: dict[str, Any], named: str
) -> None:
    async with talking(tmp_path) as talk:
        body = {"messages": ASKED} if path == "/api/chat" else {}
        response = await talk.post(path, **body, **given)
        assert response.status_code == 400, response.text
        assert named in response.json()["error"]
        assert talk.upstream.received == []


async def test_tiers_of_ollama_get_what_only_they_know(tmp_path: Path) -> None:
    async with talking(tmp_path, provider="ollama") as talk:
        answer = await talk.ollama.chat(
            "support", ASKED, think=True, keep_alive="5m", options={"num_ctx": 64}
        )
        assert answer.message.content == "HI"
        sent = next(r.body for r in talk.upstream.received if r.body.get("messages"))
        assert (sent["think"], sent["keep_alive"]) == (True, "5m")
        assert sent["options"]["num_ctx"] == 64
        refused = await talk.chat(reasoning_effort="low")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "reasoning_effort")


async def test_models_are_listed_and_shown(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        listed = await talk.ollama.list()
        assert [model.model for model in listed.models] == ["support"]
        shown = await talk.ollama.show("support:latest")
        assert "openai:small" in (shown.modelfile or "")
        assert shown.capabilities == ["completion", "tools"]
        assert (await talk.http.get("/api/version")).json()["version"]
        with pytest.raises(ollama.ResponseError) as missing:
            await talk.ollama.show("nope")
        assert missing.value.status_code == 404
        assert (await talk.post("/api/show", model=None)).status_code == 400


async def test_errors_have_ollamas_form_and_a_key_is_asked_for(tmp_path: Path) -> None:
    async with talking(tmp_path, auth=True) as talk:
        with pytest.raises(ollama.ResponseError, match="no valid API key") as refused:
            await talk.ollama.chat("support", ASKED)
        assert refused.value.status_code == 401
        secret = await talk.gateway.key()
        client = ollama.AsyncClient(
            talk.gateway.server.address, headers={"Authorization": f"Bearer {secret}"}
        )
        assert (await client.chat("support", ASKED)).message.content == HELLO
        await client._client.aclose()


async def test_waiting_is_told_by_spaces_that_clients_read_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replying, "PING_S", 0.05)
    async with talking(tmp_path) as talk:
        slow = replies.openai_reply("a", logprobs=[{"token": "a", "logprob": -0.01}], delay_s=0.3)
        talk.upstream.will(slow, slow)
        assert (await talk.post("/api/chat", messages=ASKED)).text.startswith("  ")
        parts = [part async for part in await talk.ollama.chat("support", ASKED, stream=True)]
        assert "".join(part.message.content or "" for part in parts) == "a"


async def test_what_breaks_off_is_an_error_that_the_client_raises(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        unsure = replies.openai_reply("a", logprobs=[{"token": "a", "logprob": -3.0}])
        broken = replies.sse([replies.openai_delta(content="Par")], done=False, ending="drop")
        talk.upstream.will(unsure, broken)
        stream = await talk.ollama.chat("support", ASKED, stream=True)
        shown: list[str] = []

        async def show() -> None:
            async for part in stream:
                text = part.message.content or ""
                shown.append(text)

        with pytest.raises(ollama.ResponseError, match="shown already"):
            await show()
        assert shown == ["Par"]
