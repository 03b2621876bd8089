"""What a client may say about one request, in headers or in the body."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cascade.service.protocols.asking import Wishes
from cascade.service.protocols.running import Asked
from tests.servers import replies
from tests.service.talking import talking

OTHER: dict[str, Any] = {"cascade": {"threshold": 0.99}}
"""Everything is escalated unless the request says otherwise."""


@pytest.mark.parametrize("way", ["header", "body"])
async def test_a_price_of_error_decides_about_one_request(tmp_path: Path, way: str) -> None:
    async with talking(tmp_path, **OTHER) as talk:
        await talk.sure()
        said: dict[str, Any] = {"cascade": {"price_of_error": 0.0001}}
        if way == "header":
            said = {"headers": {"X-Cascade-Price-Of-Error": "0.0001"}}
        report = (await talk.chat(**said)).json()["cascade"]
        assert (report["tier"], report["action"]) == ("small", "accept")
        assert (await talk.chat()).json()["cascade"]["tier"] == "large"


async def test_a_deadline_is_kept_and_is_a_504_where_it_cannot_be(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.chat(headers={"X-Cascade-Deadline": "20"})
        assert response.status_code == 200
        talk.upstream.will(replies.HANG, replies.HANG)
        response = await talk.chat(headers={"X-Cascade-Deadline": "0.2"})
        assert response.status_code == 504, response.text
        assert response.json()["error"]["code"] == "deadline_exceeded"


async def test_no_more_time_is_given_than_the_cascade_has(tmp_path: Path) -> None:
    async with talking(tmp_path, cascade={"deadline": 0.2}) as talk:
        talk.upstream.will(replies.HANG, replies.HANG)
        response = await talk.chat(headers={"X-Cascade-Deadline": "600"})
        assert response.status_code == 504, response.text


async def test_what_stays_here_asks_no_tier_that_is_elsewhere(tmp_path: Path) -> None:
    async with talking(tmp_path, remote=True) as talk:
        report = (await talk.chat(headers={"X-Cascade-Local-Only": "true"})).json()["cascade"]
        assert (report["tier"], report["degraded"], report["local_only"]) == (
            "small",
            True,
            "answer",
        )
        assert {request.body["model"] for request in talk.upstream.received} == {"small"}


async def test_no_answer_on_purpose_is_a_refusal_in_every_protocol(tmp_path: Path) -> None:
    async with talking(tmp_path, remote=True, **OTHER) as talk:
        said = {"cascade": {"local_only": "abstain"}}
        asked: Any = [{"role": "user", "content": "hi"}]
        answer = (await talk.chat(**said)).json()
        message = answer["choices"][0]["message"]
        assert message["content"] is None
        assert message["refusal"].startswith("No answer: ")
        assert answer["cascade"]["abstained"] is True
        stream = await talk.openai.chat.completions.create(
            model="support", messages=asked, stream=True, extra_body=said
        )
        refusals = [chunk.choices[0].delta.refusal async for chunk in stream]
        assert "".join(part or "" for part in refusals).startswith("No answer: ")
        response = await talk.openai.responses.create(model="support", input="hi", extra_body=said)
        (item,) = response.output
        assert item.type == "message"
        assert item.content[0].type == "refusal"
        events = await talk.openai.responses.create(
            model="support", input="hi", stream=True, extra_body=said
        )
        kinds = [event.type async for event in events]
        assert "response.refusal.done" in kinds
        assert "response.output_text.delta" not in kinds
        body = (await talk.post("/api/chat", messages=asked, stream=False, **said)).json()
        assert body["message"]["content"].startswith("No answer: ")
        assert {request.body["model"] for request in talk.upstream.received} == {"small"}


async def test_tags_and_traces_are_in_the_ledger_and_come_back(tmp_path: Path) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with talking(tmp_path, auth=True) as talk:
        secret = await talk.gateway.key("team", tags={"team": "blue"})
        response = await talk.chat(
            headers={
                "Authorization": f"Bearer {secret}",
                "X-Cascade-Tags": "user=ada, team=red",
                "X-Request-Id": "abc-1",
                "traceparent": f"00-{trace}-b7ad6b7169203331-01",
            }
        )
        assert response.headers["x-request-id"] == "abc-1"
        (last,) = talk.gateway.service.recent.since()
        assert last.run_id == response.json()["cascade"]["run_id"]
        told = {name: last.tags[name] for name in ("user", "team", "request_id", "trace_id")}
        # What the key says is not for the client to change.
        assert told == {"user": "ada", "team": "blue", "request_id": "abc-1", "trace_id": trace}


async def test_a_tag_that_is_no_header_is_none(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.chat(cascade={"tags": {"request_id": "Frage 1…"}})
        assert response.status_code == 200
        assert "x-request-id" not in response.headers


async def test_a_broken_trace_is_no_trace(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.chat(headers={"traceparent": "00-zz"})
        assert response.status_code == 200
        assert "trace_id" not in talk.gateway.service.recent.since()[0].tags


MEANINGLESS: list[tuple[dict[str, Any], str]] = [
    ({"headers": {"X-Cascade-Price-Of-Error": "cheap"}}, "cascade.price_of_error"),
    ({"headers": {"X-Cascade-Price-Of-Error": "nan"}}, "cascade.price_of_error"),
    ({"headers": {"X-Cascade-Price-Of-Error": "-1"}}, "cascade.price_of_error"),
    ({"headers": {"X-Cascade-Max-Harm": "1"}}, "cascade.max_harm"),
    ({"headers": {"X-Cascade-Escalation-Budget": "2"}}, "cascade.escalation_budget"),
    ({"headers": {"X-Cascade-Deadline": "0"}}, "cascade.deadline"),
    ({"headers": {"X-Cascade-Local-Only": "maybe"}}, "cascade.local_only"),
    ({"headers": {"X-Cascade-Tags": "ada"}}, "cascade.tags"),
    ({"headers": {"X-Cascade-Tags": "a="}}, "cascade.tags"),
    ({"headers": {"X-Cascade-Show": "optimistic"}}, "cascade.show"),
    ({"headers": {"X-Cascade-Nope": "1"}}, "cascade.nope"),
    ({"headers": {"X-Request-Id": "a b"}}, "X-Request-Id"),
    ({"cascade": {"max_harm": "much"}}, "cascade.max_harm"),
    ({"cascade": {"nope": 1}}, "cascade.nope"),
    ({"cascade": []}, "cascade"),
    ({"cascade": {"max_harm": 0.05}}, "max_harm"),
    ({"cascade": {"escalation_budget": 0.05}}, "escalation_budget"),
    (
        {"cascade": {"deadline": 5}, "headers": {"X-Cascade-Deadline": "5"}},
        "cascade.deadline",
    ),
    ({"cascade": {"price_of_error": 1, "max_harm": 0.1}}, "price_of_error and max_harm"),
]


@pytest.mark.parametrize(("said", "named"), MEANINGLESS, ids=lambda value: str(value)[:50])
async def test_what_has_no_meaning_is_refused_by_name(
    tmp_path: Path, said: dict[str, Any], named: str
) -> None:
    async with talking(tmp_path) as talk:
        response = await talk.chat(**said)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert named in f"{error['param']} {error['message']}"
        assert talk.upstream.received == []


async def test_all_protocols_take_the_extension(tmp_path: Path) -> None:
    async with talking(tmp_path, **OTHER) as talk:
        said = {"cascade": {"price_of_error": 0.0001}}
        asked = [{"role": "user", "content": "hi"}]
        for path, body in (
            ("/v1/responses", {"input": "hi"}),
            ("/api/chat", {"messages": asked, "stream": False}),
            ("/api/generate", {"prompt": "hi", "stream": False}),
        ):
            report = (await talk.post(path, **body, **said)).json()["cascade"]
            assert report["action"] == "accept" or report["confidence"] < 0.5


def test_what_was_waited_is_taken_from_the_deadline() -> None:
    def left(waited_s: float, deadline: float | None) -> float | None:
        wishes = Wishes(deadline=deadline)
        at = time.monotonic() - waited_s
        return Asked(model="m", messages=[], settings={}, wishes=wishes, at=at).left_s

    assert left(0, 20) == 20
    assert left(5, 20) == 15.0
    assert left(30, 20) == 0.1
    assert left(5, None) is None
