"""`/v1/chat/completions` through the official client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.servers import replies
from tests.service.talking import ASKED, HELLO, as_key, talking

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


class City(BaseModel):
    """A city."""

    name: str
    people: int


async def test_an_answer_says_who_gave_it_and_what_it_cost(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        raw = await talk.openai.chat.completions.with_raw_response.create(
            model="support", messages=ASKED
        )
        answer: Any = raw.parse()
        assert answer.choices[0].message.content == HELLO
        assert (answer.model, answer.choices[0].finish_reason) == ("support", "stop")
        report = answer.cascade
        assert (report["tier"], report["escalated"], report["calibrated"]) == ("large", True, False)
        assert report["confidence"] == pytest.approx(0.4)
        assert (report["cost_usd"], report["saved_usd"]) == (0.016, -0.008)
        assert report["basis"] == "measured"
        assert raw.headers["x-cascade-run-id"] == report["run_id"]
        assert raw.headers["x-cascade-cost-usd"] == "0.016"
        assert {entry.run_id for entry in await talk.entries()} == {report["run_id"]}


async def test_usage_is_that_of_the_answer_and_the_tiers_are_beside_it(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        answer: Any = await talk.openai.chat.completions.create(model="support", messages=ASKED)
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 8)
        assert {tier: share["calls"] for tier, share in answer.cascade["tiers"].items()} == {
            "small": 1,
            "large": 1,
        }


async def test_usage_that_nobody_knows_is_null_and_its_cost_too(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        talk.upstream.will(
            replies.openai_reply("a", usage=None, logprobs=[{"token": "a", "logprob": -0.01}])
        )
        answer = (await talk.chat()).json()
        assert answer["usage"] is None
        assert (answer["cascade"]["cost_usd"], answer["cascade"]["basis"]) == (None, "unknown")


async def test_several_answers_are_several_runs_with_their_sums(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        answer: Any = await talk.openai.chat.completions.create(
            model="support", messages=ASKED, n=3, seed=7
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage.completion_tokens == 24
        runs = answer.cascade["runs"]
        assert len({run["run_id"] for run in runs}) == 3
        assert answer.cascade["cost_usd"] == pytest.approx(sum(run["cost_usd"] for run in runs))
        drafts = [r.body for r in talk.upstream.received if r.body["model"] == "small"]
        assert sorted(body["seed"] for body in drafts) == [7, 8, 9]


async def test_log_probs_are_those_of_the_answer(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        for alternatives, tier in ((0, "large"), (3, "small")):
            answer: Any = await talk.openai.chat.completions.create(
                model="support", messages=ASKED, logprobs=True, top_logprobs=alternatives
            )
            assert answer.cascade["tier"] == tier
            tokens = answer.choices[0].logprobs.content
            assert "".join(token.token for token in tokens) == HELLO
            assert talk.upstream.last.body["logprobs"] is True
        assert talk.upstream.last.body["top_logprobs"] == 3
        assert (await talk.chat()).json()["choices"][0]["logprobs"] is None


async def test_thinking_of_the_tier_comes_with_the_answer(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        reply = replies.openai_reply(
            "Paris",
            reasoning_content="Hm.",
            logprobs=[{"token": "Paris", "logprob": -0.01}],
        )
        talk.upstream.will(reply, reply)
        message = (await talk.chat()).json()["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == ("Paris", "Hm.")


async def test_tools_are_called_and_their_results_answered(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        asked: list[Any] = [{"role": "user", "content": "How is it in 'Paris'?"}]
        answer = await talk.openai.chat.completions.create(
            model="support", messages=asked, tools=[WEATHER], tool_choice="required"
        )
        choice = answer.choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        calls: Any = choice.message.tool_calls
        (call,) = calls
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        asked += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        answer = await talk.openai.chat.completions.create(
            model="support", messages=asked, tools=[WEATHER]
        )
        assert answer.choices[0].message.content == HELLO
        told = talk.upstream.last.body["messages"]
        assert told[-1] == {"role": "tool", "tool_call_id": call.id, "content": "sunny"}


async def test_a_tool_that_has_to_be_called_is_named_to_the_tier(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        choice: Any = {"type": "function", "function": {"name": "weather"}}
        await talk.openai.chat.completions.create(
            model="support",
            messages=ASKED,
            tools=[WEATHER],
            tool_choice=choice,
            parallel_tool_calls=False,
        )
        assert talk.upstream.last.body["tool_choice"] == choice
        assert talk.upstream.last.body["parallel_tool_calls"] is False


async def test_structured_output_is_parsed_by_the_client(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        asked: Any = [{"role": "user", "content": "'Paris' has 2 people"}]
        answer = await talk.openai.chat.completions.parse(
            model="support", messages=asked, response_format=City
        )
        assert answer.choices[0].message.parsed == City(name="Paris", people=2)
        sent = talk.upstream.last.body["response_format"]["json_schema"]
        assert sent["schema"]["required"] == ["name", "people"]


async def test_any_json_object_may_be_asked_for(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        answer = await talk.openai.chat.completions.create(
            model="support",
            messages=[{"role": "user", "content": "JSON with 'animal'"}],
            response_format={"type": "json_object"},
        )
        assert json.loads(answer.choices[0].message.content or "") == {"animal": "a cat"}


async def test_pictures_go_to_the_tiers_as_they_are(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        url = "data:image/png;base64,iVBORw0KGgo="
        parts: Any = [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        ]
        await talk.openai.chat.completions.create(
            model="support", messages=[{"role": "user", "content": parts}]
        )
        assert talk.upstream.last.body["messages"][0]["content"] == parts


SETTINGS: dict[str, tuple[Any, str]] = {
    "temperature": (0.5, "temperature"),
    "top_p": (0.9, "top_p"),
    "max_tokens": (12, "max_tokens"),
    "max_completion_tokens": (13, "max_tokens"),
    "stop": (["x"], "stop"),
    "seed": (7, "seed"),
    "user": ("ada", "user"),
    "metadata": ({"a": "b"}, "metadata"),
    "reasoning_effort": ("low", "reasoning_effort"),
    "presence_penalty": (0.1, "presence_penalty"),
    "frequency_penalty": (0.2, "frequency_penalty"),
    "logit_bias": ({"5": 1}, "logit_bias"),
    "service_tier": ("flex", "service_tier"),
    "top_k": (4, "top_k"),
    "of_my_own": ({"deep": [1, None]}, "of_my_own"),
}


@pytest.mark.parametrize("name", SETTINGS)
async def test_every_parameter_reaches_both_tiers(tmp_path: Path, name: str) -> None:
    value, as_sent = SETTINGS[name]
    async with talking(tmp_path) as talk:
        response = await talk.chat(**{name: value})
        assert response.status_code == 200, response.text
        assert [request.body[as_sent] for request in talk.upstream.received] == [value, value]


async def test_a_label_reaches_the_checks_too_and_makes_no_graph(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        for number in range(3):
            plain = replies.openai_reply("a", usage={"prompt_tokens": 1, "completion_tokens": 1})
            talk.upstream.will(plain)  # without log-probs: the model is asked about its draft
            response = await talk.chat(user=f"user {number}", metadata={"number": str(number)})
            assert response.status_code == 200
        assert {request.body["user"] for request in talk.upstream.received} == {
            "user 0",
            "user 1",
            "user 2",
        }
        assert all("metadata" in request.body for request in talk.upstream.received)
        assert len(talk.gateway.service.model("support", None)._variants) == 0


REFUSED: dict[str, tuple[Any, str]] = {
    "functions": ([{"name": "f"}], "give `tools`"),
    "function_call": ("auto", "give `tool_choice`"),
    "audio": ({"voice": "x"}, "answers are text"),
    "timeout": (5, "cascade.deadline"),
    "strict": (True, "belongs into a tool"),
    "n": (17, "less than or equal to 16"),
    "temperature": (3, "less than or equal to 2"),
    "tool_choice": ("required", "there are no tools"),
    "top_logprobs": (2, "needs logprobs"),
    "messages": ([], "at least 1"),
    "stream_options": ({"include_usage": True}, "only with stream"),
    "keep_alive": ("5m", "no such parameter"),
    "num_ctx": (5, "no such parameter"),
    "response_format": ({"type": "xml"}, "type"),
    "tools": ([{"type": "web_search"}], "function"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_obeyed_is_refused_by_name(tmp_path: Path, name: str) -> None:
    value, words = REFUSED[name]
    async with talking(tmp_path) as talk:
        response = await talk.chat(**{name: value})
        error = response.json()["error"]
        assert response.status_code == 400, response.text
        assert name in f"{error['param']} {error['message']}"
        assert words in error["message"]
        assert error["type"] == "invalid_request_error"
        assert talk.upstream.received == []


async def test_two_limits_that_differ_are_refused(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.chat(max_tokens=5, max_completion_tokens=6)
        assert response.json()["error"]["param"] == "max_completion_tokens"
        assert (await talk.chat(max_tokens=5, max_completion_tokens=5)).status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        {"role": "wizard", "content": "hi"},
        {"role": "user"},
        {"role": "user", "content": "  "},
        {"role": "user", "content": [{"type": "smell", "smell": "rose"}]},
        {"role": "user", "content": "hi", "mood": "good"},
        {"role": "tool", "content": "x"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}
            ],
        },
    ],
)
async def test_a_message_that_cannot_be_read_is_refused(tmp_path: Path, message: Any) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.chat(messages=[message])
        assert response.status_code == 400, response.text
        assert talk.upstream.received == []


async def test_errors_are_those_that_the_client_knows(tmp_path: Path) -> None:
    async with talking(tmp_path, auth=True) as talk:
        with pytest.raises(openai.AuthenticationError):
            await talk.openai.chat.completions.create(model="support", messages=ASKED)
        client = as_key(talk, await talk.gateway.key(models=("support",)))
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="nope", messages=ASKED)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        talk.upstream.will(*[replies.error(429, "slow down")] * 6)
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="support", messages=[])


async def test_a_tier_that_is_busy_is_a_429_with_a_time(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        talk.upstream.will(*[replies.error(429, "slow", headers={"retry-after": "120"})] * 2)
        with pytest.raises(openai.RateLimitError) as busy:
            await talk.openai.chat.completions.create(model="support", messages=ASKED)
        assert busy.value.response.headers["retry-after"] == "120"


async def test_a_full_queue_is_a_429_that_the_client_waits_for(tmp_path: Path) -> None:
    async with talking(tmp_path, cascade={"concurrency": 1, "queue": 0}) as talk:
        talk.upstream.will(replies.HANG)
        first = asyncio.create_task(talk.chat())
        await talk.upstream.has_received()
        with pytest.raises(openai.RateLimitError) as full:
            await talk.openai.chat.completions.create(model="support", messages=ASKED)
        assert full.value.code == "queue_full"
        first.cancel()
        client = talk.openai.with_options(max_retries=5)
        answer = await client.chat.completions.create(model="support", messages=ASKED)
        assert answer.choices[0].message.content == HELLO


async def test_what_a_tier_refuses_is_the_clients_to_mend(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        talk.upstream.will(replies.error(400, "top_k is unknown"))
        with pytest.raises(openai.BadRequestError, match="top_k is unknown"):
            await talk.openai.chat.completions.create(
                model="support", messages=ASKED, extra_body={"top_k": 4}
            )


async def test_a_prompt_that_is_too_long_has_openais_code(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        too_long = replies.error(400, "too long", code="context_length_exceeded")
        talk.upstream.will(too_long, too_long)
        with pytest.raises(openai.BadRequestError) as refused:
            await talk.openai.chat.completions.create(model="support", messages=ASKED)
        assert refused.value.code == "context_length_exceeded"


async def test_a_tier_that_fails_is_a_502_and_what_was_spent_is_in_the_ledger(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path) as talk:
        # The draft is empty, and the large model has the wrong key.
        draft = replies.openai_reply("", logprobs=[])
        talk.upstream.will(draft, replies.error(401, "no"))
        response = await talk.chat()
        assert response.status_code == 502
        assert "sk-upstream" not in response.text
        nodes = [(entry.node, entry.outcome) for entry in await talk.entries()]
        assert ("draft", "ok") in nodes
        assert ("expert", "failed") in nodes


async def test_many_at_once_get_their_own_answers(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:

        async def ask(number: int) -> dict[str, Any]:
            asked = [{"role": "user", "content": f"'city {number}' has {number} people"}]
            schema = {"name": "city", "schema": City.model_json_schema()}
            response = await talk.chat(
                messages=asked,
                response_format={"type": "json_schema", "json_schema": schema},
                headers={"X-Cascade-Tags": f"number={number}"},
            )
            found: dict[str, Any] = json.loads(response.json()["choices"][0]["message"]["content"])
            return found

        answers = await asyncio.gather(*(ask(number) for number in range(1, 41)))
        assert [answer["name"] for answer in answers] == [f"city {n}" for n in range(1, 41)]


async def test_models_are_the_cascades_by_name(tmp_path: Path) -> None:
    async with talking(tmp_path, allow_tiers=True) as talk:
        names = [model.id async for model in talk.openai.models.list()]
        assert names == ["support", "support/small", "support/large"]
        one: Any = await talk.openai.models.retrieve("support/small")
        assert [tier["model"] for tier in one.cascade["tiers"]] == ["openai:small"]
        with pytest.raises(openai.NotFoundError):
            await talk.openai.models.retrieve("nope")
        answer: Any = await talk.openai.chat.completions.create(
            model="support/large", messages=ASKED
        )
        assert answer.cascade["tier"] == "large"


async def test_a_key_sees_and_asks_its_own_models_alone(tmp_path: Path) -> None:
    async with talking(tmp_path, auth=True, allow_tiers=True) as talk:
        client = as_key(talk, await talk.gateway.key(models=("support/small",)))
        assert [model.id async for model in client.models.list()] == ["support/small"]
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model="support", messages=ASKED)
