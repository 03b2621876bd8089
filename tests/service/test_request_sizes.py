"""How long a prompt is taken to be."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade.service.budgets import IMAGE_CHARACTERS, prompt_size
from tests.servers.fake import FakeServer
from tests.service.gateway import configured, gateway

LONG = "A" * 1_000_000


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({"content": "hello"}, 12),
        ({"content": LONG}, 1_000_007),
        ([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{LONG}"}}], None),
        ({"images": [LONG, LONG]}, 6 + 2 * IMAGE_CHARACTERS),
        ({"input_audio": {"data": LONG}}, 15 + IMAGE_CHARACTERS),
        ({"image_url": "https://example.org/a.png"}, 34),
        ({"a": [1, 2.5, True, None]}, 17),
        ("", 0),
    ],
)
def test_text_counts_by_its_characters_and_files_by_what_models_charge(
    body: Any, size: int | None
) -> None:
    expected = IMAGE_CHARACTERS + len("typeimage_urlimage_urlurl") if size is None else size
    assert prompt_size(body) == expected


def test_a_body_may_be_as_deep_as_it_likes() -> None:
    body: Any = "x"
    for _ in range(100_000):
        body = [body]
    assert prompt_size(body) == 1


@pytest.mark.parametrize("told", [True, False])
async def test_a_long_prompt_is_put_aside_for_whatever_its_header_says(
    upstream: FakeServer, tmp_path: Path, told: bool
) -> None:
    config = configured(upstream, tmp_path)
    for tier in config["cascades"]["support"]["tiers"]:
        tier["price"] = {"input": 1, "output": 0}

    async def pieces() -> Any:
        yield body

    body = b'{"model": "support", "messages": [{"role": "user", "content": "%s"}]}' % LONG.encode()
    async with gateway(config) as running:
        secret = await running.key(day_usd=Decimal("0.1"))
        answer = await running.client.post(
            "/v1/chat/completions",
            content=body if told else pieces(),
            headers={"X-API-Key": secret, "Content-Type": "application/json"},
        )
    assert answer.status_code == 402, answer.text
    assert not upstream.received


async def test_a_body_that_is_no_json_is_told_by_its_protocol(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        headers = {"X-API-Key": await running.key(day_usd=Decimal(1))}
        for path in ("/v1/chat/completions", "/api/chat", "/v1/responses"):
            for body in (b"{", b"", b"\xff"):
                answer = await running.client.post(path, content=body, headers=headers)
                assert answer.status_code == 400, (path, body, answer.text)
