"""Requests that want to change whom the service asks, what it fetches, or how it reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cascade.service.protocols.addresses import _is_public
from cascade.service.protocols.parameters import OURS
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.conftest import upstream
from tests.service.gateway import configured, gateway
from tests.service.talking import ASKED, talking

__all__ = ["upstream"]

INSIDE = [
    "http://127.0.0.1/a.png", "http://localhost:8080/admin/keys", "http://[::1]/a", "http://127.1/",
    "http://2130706433/", "http://0x7f.0x0.0x0.0x1/", "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.5/", "http://192.168.1.1/", "http://[fe80::1]/", "http://[::ffff:127.0.0.1]/",
    "http://100.64.0.1/", "http://0.0.0.0/", "file:///etc/passwd", "gopher://example.org/",
    "ftp://example.org/a", "//example.org/a", "a.png", "http:///a", "http://user@example.org/a",
    "http://metadata.google.internal/", "http://redis.svc/", "http://gateway/", "http://[bad/",
    "http://example.local./", "HTTP://LOCALHOST/", "", "javascript:alert(1)", "http://0177.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", INSIDE)
def test_an_address_within_a_network_is_not_public(url: str) -> None:
    assert not _is_public(url)


@pytest.mark.parametrize("url", ["https://example.org/a.png", "http://8.8.8.8/a", "https://a.co"])
def test_an_address_of_the_web_is_public(url: str) -> None:
    assert _is_public(url)


def looking(url: str) -> list[Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, part]}]


async def test_no_address_is_fetched_from_within_the_network(
    upstream: FakeServer, tmp_path: Path
) -> None:
    asked = []
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        for url in (
            f"{upstream.url}/secret.png",
            "file:///etc/passwd",
            "https://example.org/a.png",
        ):
            image = {"type": "input_image", "image_url": url}
            bodies: list[tuple[str, dict[str, Any]]] = [
                ("/v1/chat/completions", {"messages": looking(url)}),
                ("/v1/responses", {"input": [{"role": "user", "content": [image]}]}),
                (
                    "/v1/chat/completions",
                    {
                        "messages": [
                            {
                                "role": "user",
                                "content": [{"type": "file", "file": {"file_url": url}}],
                            }
                        ]
                    },
                ),
            ]
            for path, body in bodies:
                answer = await running.client.post(path, json={"model": "support", **body})
                asked.append((answer.status_code, answer.json()["error"]["code"]))
    assert set(asked) == {(400, "address_not_allowed")}
    assert not upstream.received


async def test_a_public_address_goes_to_hosted_tiers_as_it_is(
    upstream: FakeServer, tmp_path: Path
) -> None:
    config = configured(upstream, tmp_path, auth=False)
    for tier in config["cascades"]["support"]["tiers"]:
        tier["local"] = False
    found = []
    async with gateway(config) as running:
        for url in ("https://example.org/a.png", "http://10.0.0.1/a"):
            body = {"model": "support", "messages": looking(url)}
            answer = await running.client.post("/v1/chat/completions", json=body)
            found.append(answer.status_code)
    assert found == [200, 400]
    assert upstream.received[0].body["messages"] == looking("https://example.org/a.png")


@pytest.mark.parametrize(
    "model",
    ["openai:http://127.0.0.1/v1", "http://127.0.0.1", "ollama:x", "support/../x", "\u0000"],
)
async def test_a_model_is_a_name_of_the_configuration_and_nothing_else(
    upstream: FakeServer, tmp_path: Path, model: str
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        body = {"model": model, "messages": ASKED}
        answer = await running.client.post("/v1/chat/completions", json=body)
        ollama = await running.client.post("/api/chat", json=body)
    assert (answer.status_code, ollama.status_code) == (404, 404)
    assert not upstream.received


def valued(name: str) -> Any:
    values: dict[str, Any] = {
        "messages": [{"role": "user", "content": "something else"}],
        "model": "expensive",
        "n": 3,
        "stream": True,
        "tool_risks": {"delete": "read"},
        "options": {"num_predict": 9},
    }
    return values.get(name, "http://127.0.0.1/evil")


async def test_no_parameter_changes_whom_a_tier_asks_what_or_how_often(
    upstream: FakeServer, tmp_path: Path
) -> None:
    extra = sorted(OURS.keys() - {"messages", "model", "n", "stream", "stream_options"})
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        for name in extra:
            if name == "max_completion_tokens":  # it is one of this protocol
                continue
            answer = await running.client.post(
                "/v1/chat/completions",
                json={"model": "support", "messages": ASKED, name: valued(name)},
            )
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, name), (name, answer.text)
        for name in sorted(OURS.keys() - {"num_predict"}):
            answer = await running.client.post(
                "/api/chat",
                json={
                    "model": "support",
                    "messages": ASKED,
                    "stream": False,
                    "options": {name: valued(name)},
                },
            )
            assert answer.status_code == 400, (name, answer.text)
    assert not upstream.received


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1E+400", "9" * 400 + ".0", "9" * 5000]


async def test_a_number_that_is_none_goes_to_no_provider(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        for number in NUMBERS:
            for field in ('"top_k"', '"metadata": {"a"', '"temperature"'):
                close = "}" if "{" in field else ""
                raw = (
                    f'{{"model":"support","messages":{json.dumps(ASKED)},{field}:{number}{close}}}'
                )
                answer = await running.client.post(
                    "/v1/chat/completions",
                    content=raw,
                    headers={"Content-Type": "application/json"},
                )
                assert answer.status_code == 400, (number[:20], field, answer.text)
        words = [{"role": "user", "content": "NaN, Infinity and 1e999 are words"}]
        said = await running.client.post(
            "/v1/chat/completions", json={"model": "support", "messages": words}
        )
    assert said.status_code == 200
    assert {r.body["messages"][0]["content"] for r in upstream.received} == {words[0]["content"]}


async def test_of_keys_that_stand_twice_one_reading_goes_everywhere(
    upstream: FakeServer, tmp_path: Path
) -> None:
    raw = (
        '{"model":"other","model":"support","messages":[{"role":"user","content":"first"}],'
        '"messages":[{"role":"user","content":"first","content":"second"}],'
        '"max_tokens":1000000,"max_tokens":5}'
    )
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        answer = await running.client.post(
            "/v1/chat/completions", content=raw, headers={"Content-Type": "application/json"}
        )
    assert answer.status_code == 200
    for received in upstream.received:
        assert received.body["messages"] == [{"role": "user", "content": "second"}]
        assert received.body["max_tokens"] == 5


async def test_zero_bytes_and_strange_letters_are_text(tmp_path: Path) -> None:
    text = "a\x00b\u202ec\ufffed\U0010ffff"
    async with talking(tmp_path) as talk:
        asked = [{"role": "user", "content": text}]
        answer = await talk.post("/v1/chat/completions", messages=asked)
        assert answer.status_code == 200
        assert talk.upstream.last.body["messages"] == asked
        assert len(await talk.entries()) == 4


@pytest.mark.parametrize("tag", ["a\x00b", "a\nb", "a\x1b[2J", "", "a" * 201])
async def test_a_tag_is_one_line_of_text(tmp_path: Path, tag: str) -> None:
    async with talking(tmp_path) as talk:
        for tags in ({tag: "x"}, {"x": tag}):
            answer = await talk.chat(cascade={"tags": tags})
            assert answer.status_code == 400
        assert not talk.upstream.received


async def test_where_a_provider_sends_a_request_on_to_nobody_follows_with_the_key(
    upstream: FakeServer, tmp_path: Path
) -> None:
    found = set()
    with FakeServer() as other:
        async with gateway(configured(upstream, tmp_path, auth=False)) as running:
            for stream in (False, True):
                for status in (301, 302, 303, 307, 308):
                    headers = {"Location": f"{other.openai_url}/x"}
                    moved = replies.Reply(parts=(b"",), status=status, headers=headers)
                    upstream.will(*[moved] * 4)
                    body = {"model": "support", "messages": ASKED, "stream": stream}
                    answer = await running.client.post("/v1/chat/completions", json=body)
                    found.add((answer.status_code, str(other.port) in answer.text))
                    upstream._script.clear()
    assert found == {(502, False)}
    assert not other.received
