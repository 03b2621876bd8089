"""A service with a page, as a finance person would find it: weeks of requests, and some live.

`serving(folder)` fills a ledger, starts a gateway and a model server before it, all on this
machine; the tests of the page and `scripts/screenshots.py` look at it with a browser.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from cascade.ledger.store import open_store
from cascade.service import ServiceConfig, create_app
from cascade.service.keys import Keys
from cascade.state import LedgerEntry
from tests.report.ledgers import LARGE, SMALL, Story, usd
from tests.servers import replies
from tests.servers.fake import FakeServer

SURE, UNSURE = math.log(0.97), math.log(0.35)
NAMES = {SMALL: "qwen2.5:3b", LARGE: "gpt-5.1"}
SMALL_ANSWER = "Canberra is the capital of Australia."
LARGE_ANSWER = (
    "Canberra. It was chosen in 1908 as a compromise between Sydney and Melbourne, and is the "
    "seat of parliament."
)


class Upstream(FakeServer):
    """A small model that is unsure of questions with the word `hard`, and a large one.

    A question with the word `slow` is answered word by word with pauses.
    """

    async def _openai(self, request: Any) -> Any:
        return await self._answer(request, answer)


def answer(body: Mapping[str, Any]) -> replies.Reply:
    """The reply of either model, with the log-probs of its words."""
    question = str(body["messages"][-1]["content"])
    large = body["model"] != "small"
    logprob = UNSURE if "hard" in question and not large else SURE
    words = re.findall(r"\S+\s*", LARGE_ANSWER if large else SMALL_ANSWER)
    told = [{"token": word, "logprob": logprob, "top_logprobs": []} for word in words]
    usage = {"prompt_tokens": 400, "completion_tokens": len(words) * 12}
    if not body.get("stream"):
        given = told if body.get("logprobs") else None
        return replies.json_reply(replies.openai_body("".join(words), usage=usage, logprobs=given))
    chunks = [
        replies.openai_delta(content=one["token"], logprobs=[one] if body.get("logprobs") else None)
        for one in told
    ]
    end = [replies.openai_delta("stop"), {"choices": [], "usage": usage}]
    return replies.sse([*chunks, *end], pause_s=0.4 if "slow" in question else 0.0)


@dataclass(frozen=True, slots=True)
class World:
    """Where the service listens, and with which key one logs in and asks."""

    url: str
    admin: str
    key: str
    upstream: Upstream
    app: Any
    folder: Path


def settings(upstream: Upstream, ledger: Path | None, **more: Any) -> ServiceConfig:
    """A cascade `support` of two priced models."""
    small = {
        "model": "openai:small",
        "base_url": upstream.openai_url,
        "api_key": "none",
        "price": {"input": "0.05", "output": "0.08"},
    }
    large = {
        "model": "openai:gpt-5.1",
        "base_url": upstream.openai_url,
        "api_key": "none",
        "price": {"input": "1.25", "output": "10"},
    }
    rate = None if ledger is None else 0.05
    cascade = {"tiers": [small, large], "threshold": 0.8, "audit_rate": rate}
    where = None if ledger is None else {"url": f"sqlite:///{ledger}"}
    return ServiceConfig.model_validate(
        {"cascades": {"support": cascade}, "ledger": where, "log": {"requests": False}, **more}
    )


def fill(ledger: Path, days: int = 18, seed: int = 5) -> None:
    """Some weeks of requests of two teams, of which the truth is known."""
    rng = np.random.default_rng(seed)
    begin = datetime.now(UTC).replace(hour=8, minute=0, second=0) - timedelta(days=days)
    for team in ("support", "search"):
        entries: list[LedgerEntry] = []
        for day in range(days):
            for _ in range(int(rng.integers(24, 36) + 1.5 * day)):
                at = begin + timedelta(days=day, seconds=float(rng.uniform(0, 36_000)))
                entries += _request(rng, at, team)
        entries.sort(key=lambda entry: entry.at)
        asyncio.run(_keep(ledger, team, entries))


async def _keep(ledger: Path, team: str, entries: list[LedgerEntry]) -> None:
    async with open_store(f"sqlite:///{ledger}", tags={"team": team}) as store:
        store.append(entries)


def _request(rng: np.random.Generator, at: datetime, team: str) -> list[LedgerEntry]:
    hardness = float(rng.beta(1.6, 2.4) if team == "support" else rng.beta(2.2, 2.0))
    confidence = float(np.clip(1.02 - 0.75 * hardness**2 + rng.normal(0, 0.03), 0.05, 0.995))
    wrong = rng.random() < 0.6 * (1 - confidence)
    large = Decimal(f"{0.004 + 0.008 * rng.lognormal(0.6 * hardness, 0.4):.6f}")
    story = Story(at).draft(usd(f"{0.00004 + 0.0001 * rng.random():.6f}")).check()
    story.entries[-1] = story.entries[-1].model_copy(update={"calibrated": True})
    sure = {"confidence": round(confidence, 4), "calibrated": True}
    if confidence >= 0.8:
        predicted = Decimal(f"{float(large) * rng.lognormal(-0.1, 0.3):.6f}")
        story.accept(predicted, rate=0.2, **sure)
        if rng.random() < 0.2:
            story.audit(large, float(wrong))
    else:
        story.decide("escalate", **sure).expert(large)
    return [_named(entry, rng) for entry in story.entries]


def _named(entry: LedgerEntry, rng: np.random.Generator) -> LedgerEntry:
    took = {"draft": 300.0, "expert": 1800.0, "audit": 1700.0}.get(entry.node, 1.0)
    model = None if entry.model is None else NAMES[entry.model]
    return entry.model_copy(
        update={"model": model, "latency_ms": took * float(rng.uniform(0.7, 1.6))}
    )


@contextmanager
def serving(folder: Path, *, filled: bool = True, **more: Any) -> Generator[World]:
    """A running service with a key for the page and one for clients."""
    ledger = folder / "ledger.db"
    if filled:
        fill(ledger)
    with Upstream() as upstream:
        auth = more.get("auth", True)
        admin, key = asyncio.run(_make_keys(ledger)) if auth else ("", "")
        app = create_app(settings(upstream, ledger, **more))
        with running(app) as url:
            yield World(url, admin, key, upstream, app, folder)


async def _make_keys(ledger: Path) -> tuple[str, str]:
    keys = Keys(f"sqlite:///{ledger}")
    _, admin = await keys.create("finance", admin=True)
    _, key = await keys.create("support-bot")
    await keys.aclose()
    return admin, key


@contextmanager
def running(app: Any) -> Generator[str]:
    """The application behind a real server in a thread of its own; gives its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            thread.join(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(15)
        if thread.is_alive():
            server.force_exit = True
            thread.join(15)


def events_of(text: str) -> list[tuple[str, Any]]:
    """Name and content of each server-sent event in a text."""
    found = []
    for part in text.split("\n\n"):
        lines = dict(line.partition(": ")[::2] for line in part.splitlines())
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


@contextmanager
def visitor(world: World) -> Generator[httpx.Client]:
    """A client that has logged in on the page."""
    with httpx.Client(base_url=world.url, timeout=30) as client:
        assert client.post("/login", data={"key": world.admin}).status_code == 303
        yield client
