"""What a request says has the kind that the OpenAPI document says it has, and what clients say
by habit is no error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.service.talking import ASKED, talking

CHAT, RESPONSES, OLLAMA = "/v1/chat/completions", "/v1/responses", "/api/chat"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": ASKED},
    RESPONSES: {"input": "hi"},
    OLLAMA: {"messages": ASKED, "stream": False},
}


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (CHAT, {"stream": 0}),
        (CHAT, {"n": True}),
        (CHAT, {"n": "2"}),
        (CHAT, {"n": 2.5}),
        (CHAT, {"temperature": "1"}),
        (CHAT, {"stream_options": {"include_obfuscation": True}}),
        (CHAT, {"cascade": {"local_only": 0}}),
        (CHAT, {"cascade": {"price_of_error": True}}),
        (RESPONSES, {"background": True}),
        (RESPONSES, {"background": 0}),
        (RESPONSES, {"max_output_tokens": "9"}),
        (OLLAMA, {"keep_alive": False}),
        (OLLAMA, {"top_logprobs": False}),
        (OLLAMA, {"think": 1}),
    ],
)
async def test_a_value_of_another_kind_is_refused_by_name(
    tmp_path: Path, path: str, wrong: dict[str, Any]
) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.post(path, **BODIES[path], **wrong)
        assert response.status_code == 400
        assert next(iter(wrong)) in response.text
        assert not talk.upstream.received


@pytest.mark.parametrize(
    ("path", "right"),
    [
        (CHAT, {"n": 2.0, "temperature": 1}),
        (CHAT, {"stream": True, "stream_options": {"include_obfuscation": False}}),
        (RESPONSES, {"background": False, "max_output_tokens": 9.0}),
    ],
)
async def test_a_whole_number_may_have_a_point_and_false_may_be_said(
    tmp_path: Path, path: str, right: dict[str, Any]
) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.post(path, **BODIES[path], **right)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "habit",
    [
        {"annotations": []},
        {"audio": None, "function_call": None, "refusal": None},
        {"reasoning_content": "thoughts of before"},
    ],
)
async def test_an_answer_of_before_comes_back_with_all_its_fields(
    tmp_path: Path, habit: dict[str, Any]
) -> None:
    before = {"role": "assistant", "content": "yes", **habit}
    async with talking(tmp_path) as talk:
        response = await talk.chat(messages=[*ASKED, before, *ASKED])
        assert response.status_code == 200, response.text
        sent = talk.upstream.received[0].body["messages"][1]
        assert sent == {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize(
    "habit",
    [
        {"include": ["reasoning.encrypted_content", "web_search_call.action.sources"]},
        {"reasoning": {"summary": "auto"}},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}, *ASKED]},
    ],
)
async def test_what_asks_for_nothing_that_an_answer_has_is_no_error(
    tmp_path: Path, habit: dict[str, Any]
) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.post(RESPONSES, **{"input": "hi", **habit})
        assert response.status_code == 200, response.text
        body = talk.upstream.received[0].body
        assert body["messages"] == ASKED
        assert not {"include", "reasoning", "reasoning_effort"} & body.keys()


async def test_included_sources_are_no_log_probs(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        texts = []
        for include in ("message.output_text.logprobs", "web_search_call.action.sources"):
            response = await talk.post(RESPONSES, input="hi", include=[include])
            texts.append(response.json()["output"][0]["content"][0]["logprobs"])
        assert texts[0]
        assert not texts[1]


async def test_headers_are_read_as_what_they_say(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        headers = {"X-Cascade-Local-Only": "true", "X-Cascade-Price-Of-Error": "0.05"}
        response = await talk.post(CHAT, **BODIES[CHAT], headers=headers)
        assert response.status_code == 200, response.text


async def test_a_method_that_a_path_has_not_is_told_all_that_it_has(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        for path, methods in (
            ("/v1/responses/resp_1", "GET, DELETE"),
            ("/admin/keys", "GET, POST"),
            (CHAT, "POST"),
        ):
            response = await talk.http.patch(path)
            assert (response.status_code, response.headers["allow"]) == (405, methods)


async def test_metrics_are_described_as_the_text_that_they_are(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        document = (await talk.http.get("/openapi.json")).json()
        described = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
        assert list(described) == ["text/plain"]
