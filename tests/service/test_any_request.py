"""Whatever a client sends, it is told what is wrong: no request makes the service fail."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

from tests.service.talking import ASKED, talking

PATHS = ("/v1/chat/completions", "/v1/responses", "/api/chat", "/api/generate", "/api/show")

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1e308,
    10**30,
    "",
    "x",
    "\ud800",
    "\x00",
    [],
    [None],
    [[]],
    {},
    {"type": "object"},
    {"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}}},
    [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}],
    [{"role": "assistant", "content": "hi"}],
    {"name": "f"},
)

FIELDS = (
    "model",
    "messages",
    "input",
    "prompt",
    "stream",
    "n",
    "tools",
    "tool_choice",
    "response_format",
    "format",
    "text",
    "options",
    "temperature",
    "max_tokens",
    "stop",
    "seed",
    "logprobs",
    "top_logprobs",
    "stream_options",
    "previous_response_id",
    "images",
    "cascade",
    "metadata",
    "user",
    "unknown",
)


async def test_no_request_makes_the_service_fail(tmp_path: Path) -> None:
    chance = random.Random(7)
    base = {"model": "support", "messages": ASKED, "input": "hi", "prompt": "hi"}
    kept = {
        "/v1/chat/completions": ("model", "messages"),
        "/v1/responses": ("model", "input"),
        "/api/chat": ("model", "messages"),
        "/api/generate": ("model", "prompt"),
        "/api/show": ("model",),
    }
    async with talking(tmp_path) as talk:

        async def send(path: str) -> tuple[str, int, str]:
            body: dict[str, Any] = {name: base[name] for name in kept[path]}
            for field in chance.sample(FIELDS, chance.randint(1, 3)):
                body[field] = chance.choice(VALUES)
            raw = json.dumps(body)
            response = await talk.http.post(
                path, content=raw, headers={"content-type": "application/json"}
            )
            return raw, response.status_code, response.text

        paths = [PATHS[number % len(PATHS)] for number in range(400)]
        for start in range(0, len(paths), 20):
            for raw, status, text in await asyncio.gather(*map(send, paths[start : start + 20])):
                assert status < 500, (raw, status, text)


async def test_what_is_too_deep_is_refused(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        for depth in (200, 900, 100_000):
            deep = b'{"properties":{"a":' * depth + b"{}" + b"}}" * depth
            for path in PATHS[:4]:
                raw = b'{"model":"support","messages":[{"role":"user","content":"hi"}],' + (
                    b'"input":"hi","prompt":"hi","x":' + deep + b"}"
                )
                response = await talk.http.post(
                    path, content=raw, headers={"content-type": "application/json"}
                )
                assert response.status_code == 400, (path, depth, response.text)


async def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        for path in PATHS:
            for raw in (b"", b"{", b"[]", b"\xff", b'"x"', b"null", b"NaN"):
                response = await talk.http.post(
                    path, content=raw, headers={"content-type": "application/json"}
                )
                assert response.status_code == 400, (path, raw, response.text)
                assert "error" in response.json()
