"""The gateway: `cascade serve` with the official clients, keys, budgets, streams."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest

from tests.acceptance import commands, edition
from tests.acceptance.upstream import Answer, Held, Upstream, failure

ASKED: Any = [{"role": "user", "content": "What is the capital of Australia?"}]
PRICES = ("{input: 1, output: 1}", "{input: 10, output: 10}")


def configure(folder: Path, upstream: Upstream, port: int, more: str = "") -> Path:
    tiers = [
        f"- {{model: 'openai:{name}', base_url: '{upstream.openai_url}', "
        f"api_key_env: UPSTREAM_KEY, max_tokens: 100, price: {price}}}"
        for name, price in zip(("small", "large"), PRICES, strict=True)
    ]
    path = folder / "cascade.yaml"
    listed = f"    threshold: 0.8\n    tiers:\n      {tiers[0]}\n      {tiers[1]}\n"
    path.write_text(
        f"ledger: sqlite:///ledger.db\nlisten: {{port: {port}}}\ncascades:\n"
        f"  support:\n{listed}  sales:\n{listed}{more}"
    )
    return path


@dataclass
class Served:
    """A running gateway, in a process of its own."""

    upstream: Upstream
    config: Path
    url: str
    process: subprocess.Popen[str]

    def key(self, name: str, *options: str) -> Any:
        """A new key: its id and its secret."""
        return commands.cascade("keys", "create", self.config, name, *options, "--json").json

    def client(self, name: str = "team", *options: str) -> openai.OpenAI:
        secret = self.key(name, *options)["secret"]
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=secret, max_retries=0)

    def says(self, p: float = 0.95, small: str = "Canberra", large: str = "It is Canberra") -> None:
        self.upstream.says("small", Answer(small, p=p, tokens=(100, 10)))
        self.upstream.says("large", Answer(large, tokens=(100, 10)))


def serve(folder: Path, upstream: Upstream) -> Served:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = configure(folder, upstream, port)
    process = commands.start("serve", config, UPSTREAM_KEY="sk-upstream")
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while True:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        try:
            httpx.get(f"{url}/readyz", timeout=5)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return Served(upstream, config, url, process)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Upstream() as upstream, pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPSTREAM_KEY", "sk-upstream")
        served = serve(tmp_path_factory.mktemp("gateway"), upstream)
        yield served
        served.process.terminate()
        served.process.communicate(timeout=60)


@pytest.fixture
def client(gateway: Served) -> Iterator[openai.OpenAI]:
    gateway.says()
    with gateway.client() as made:
        yield made


# --- OpenAI's protocol


@pytest.mark.parametrize(
    ("p", "text", "tier"), [(0.95, "Canberra", "small"), (0.3, "It is Canberra", "large")]
)
def test_a_chat_completion_is_that_of_a_cascade(
    gateway: Served, client: openai.OpenAI, p: float, text: str, tier: str
) -> None:
    gateway.says(p)
    answer = client.chat.completions.create(model="support", messages=ASKED)
    assert answer.choices[0].message.content == text
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (100, 10)
    said: Any = answer.cascade  # type: ignore[attr-defined]
    assert (said["tier"], said["escalated"], said["calibrated"]) == (tier, tier == "large", False)
    cost = Decimal("0.00011") if tier == "small" else Decimal("0.00121")
    assert Decimal(str(said["cost_usd"])) == cost


@pytest.mark.parametrize("p", [0.95, 0.3])
def test_a_stream_never_shows_a_rejected_draft(
    gateway: Served, client: openai.OpenAI, p: float
) -> None:
    gateway.says(p, small="a draft of it", large="the answer to it")
    chunks = list(
        client.chat.completions.create(
            model="support", messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == ("a draft of it" if p > 0.8 else "the answer to it")
    assert [c.usage.completion_tokens for c in chunks if c.usage] == [10]


def test_tools_are_called(gateway: Served, client: openai.OpenAI) -> None:
    gateway.upstream.says("small", Answer("", calls=(("weather", {"city": "Canberra"}),)))
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    gateway.upstream.says("large", Answer("", calls=(("weather", {"city": "Canberra"}),)))
    answer = client.chat.completions.create(model="support", messages=ASKED, tools=[tool])
    (call,) = answer.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Canberra"}  # type: ignore[union-attr]


def test_a_draft_that_breaks_the_schema_of_a_request_is_escalated(
    gateway: Served, client: openai.OpenAI
) -> None:
    gateway.says(0.99, small='{"town": 1}', large='{"city": "Canberra"}')
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    answer = client.chat.completions.create(model="support", messages=ASKED, response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "") == {"city": "Canberra"}


def test_responses_are_answered_and_streamed(gateway: Served, client: openai.OpenAI) -> None:
    gateway.says(0.3)
    answer = client.responses.create(model="support", input="Capital of Australia?")
    assert answer.output_text == "It is Canberra"
    events = client.responses.create(model="support", input="Capital?", stream=True)
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == "It is Canberra"


def test_models_are_the_cascades(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"support", "sales"}
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="another", messages=ASKED)


def test_a_request_may_say_how_it_is_decided(gateway: Served, client: openai.OpenAI) -> None:
    extra = {"cascade": {"price_of_error": 10.0, "tags": {"user": "ada"}}}
    answer = client.chat.completions.create(model="support", messages=ASKED, extra_body=extra)
    assert answer.cascade["tier"] == "large"  # type: ignore[attr-defined]
    with pytest.raises(openai.BadRequestError):
        extra = {"cascade": {"price_of_eror": 10.0}}
        client.chat.completions.create(model="support", messages=ASKED, extra_body=extra)


# --- Ollama's protocol


def test_ollamas_client_chats_streams_and_lists(gateway: Served) -> None:
    gateway.says(0.3)
    secret = gateway.key("ollama")["secret"]
    client = ollama.Client(gateway.url, headers={"Authorization": f"Bearer {secret}"})
    assert client.chat("support", ASKED).message.content == "It is Canberra"
    pieces = [part.message.content or "" for part in client.chat("support", ASKED, stream=True)]
    assert "".join(pieces) == "It is Canberra"
    assert {str(m.model).removesuffix(":latest") for m in client.list().models} == {
        "support",
        "sales",
    }


# --- failures


def test_where_the_large_model_is_down_the_draft_is_the_answer_and_says_so(
    gateway: Served, client: openai.OpenAI
) -> None:
    gateway.says(0.3)
    gateway.upstream.says("large", failure(400))
    answer = client.chat.completions.create(model="support", messages=ASKED)
    assert answer.choices[0].message.content == "Canberra"
    assert answer.cascade["degraded"] is True  # type: ignore[attr-defined]


def test_where_no_model_answers_the_client_gets_an_error_of_its_own(
    gateway: Served, client: openai.OpenAI
) -> None:
    for name in ("small", "large"):
        gateway.upstream.says(name, failure(400))
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model="support", messages=ASKED)
    assert raised.value.status_code in (400, 502)
    assert "sk-upstream" not in str(raised.value)


async def test_a_client_that_leaves_ends_the_call(gateway: Served) -> None:
    gateway.upstream.says("small", Answer("x", held=Held()))
    before = len(gateway.upstream.asked("small"))
    key = await asyncio.to_thread(gateway.key, "leaver")
    headers = {"Authorization": f"Bearer {key['secret']}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=60) as client:
        body = {"model": "support", "messages": ASKED}
        asking = edition.spawn(client.post("/v1/chat/completions", json=body))
        seen = await gateway.upstream.has_asked(before + 1, "small")
        asking.cancel()
        await edition.settled(asking)
    assert seen.left.wait(30)


# --- keys and budgets


@pytest.mark.parametrize("secret", [None, "csk_wrong"])
def test_without_a_right_key_nobody_gets_in(gateway: Served, secret: str | None) -> None:
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    body = {"model": "support", "messages": ASKED}
    asked = len(gateway.upstream.seen)
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 401
    assert len(gateway.upstream.seen) == asked


def test_a_revoked_key_is_refused_within_seconds(gateway: Served) -> None:
    gateway.says()
    key = gateway.key("leaving")
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key["secret"], max_retries=0)
    client.models.list()
    commands.cascade("keys", "revoke", gateway.config, key["id"])
    end = time.monotonic() + 30
    with pytest.raises(openai.AuthenticationError):
        while time.monotonic() < end:
            client.models.list()
            time.sleep(0.05)


def test_a_key_may_be_for_some_models_alone(gateway: Served) -> None:
    client = gateway.client("narrow", "--model", "sales")
    client.chat.completions.create(model="sales", messages=ASKED)
    with pytest.raises((openai.PermissionDeniedError, openai.NotFoundError)):
        client.chat.completions.create(model="support", messages=ASKED)


def test_requests_a_minute_are_limited(gateway: Served) -> None:
    gateway.says()
    client = gateway.client("slow", "--per-minute", "2")
    with pytest.raises(openai.RateLimitError) as raised:
        for _ in range(4):
            client.chat.completions.create(model="support", messages=ASKED)
    assert float(raised.value.response.headers["retry-after"]) > 0


def test_fifty_requests_at_once_do_not_overspend_a_keys_budget(gateway: Served) -> None:
    gateway.says(0.3)  # $0.00121 each
    key = gateway.key("spender", "--day-usd", "0.02")
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key["secret"], max_retries=0)

    def ask(_: int) -> int:
        try:
            client.chat.completions.create(model="support", messages=ASKED)
        except openai.APIStatusError as error:
            return error.status_code
        return 200

    with ThreadPoolExecutor(50) as pool:
        ended = list(pool.map(ask, range(50)))
    assert set(ended) == {200, 402}
    assert 0 < ended.count(200) * Decimal("0.00121") <= Decimal("0.02")
    report = commands.cascade(
        "report",
        f"sqlite:///{gateway.config.parent}/ledger.db",
        "--tag",
        f"key={key['id']}",
        "--json",
    ).json
    assert report["requests"] == ended.count(200)


# --- running it


def test_it_says_how_it_is(gateway: Served) -> None:
    assert httpx.get(f"{gateway.url}/readyz").status_code == 200
    document = httpx.get(f"{gateway.url}/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/responses", "/api/chat"} <= set(document["paths"])
    assert "text/html" in httpx.get(gateway.url, follow_redirects=True).headers["content-type"]


def test_a_configuration_is_checked_before_it_is_served(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "k")
    good = configure(tmp_path, upstream, 0)
    assert "support" in json.dumps(commands.cascade("serve", good, "--check", "--json").json)
    bad = configure(tmp_path, upstream, 0, "    threshhold: 0.8\n")
    done = commands.cascade("serve", bad, "--check", code=2)
    assert "threshhold" in done.err
    assert ":14" in done.err  # the line
    assert upstream.seen == []


def test_a_key_in_clear_text_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    path = configure(tmp_path, upstream, 0)
    path.write_text(path.read_text().replace("api_key_env: UPSTREAM_KEY", "api_key: sk-clear"))
    done = commands.cascade("serve", path, "--check", code=2)
    assert "sk-clear" not in done.err


def test_sigterm_finishes_what_runs_and_leaves_with_0(upstream: Upstream, tmp_path: Path) -> None:
    held = Held()
    served = serve(tmp_path, upstream)
    with served.client() as client, ThreadPoolExecutor(1) as pool:
        upstream.says("small", Answer("Canberra", held=held))
        asking = pool.submit(client.chat.completions.create, model="support", messages=ASKED)
        upstream.wait_for(1, "small")
        served.process.send_signal(signal.SIGTERM)
        held.release()
        assert asking.result(60).choices[0].message.content == "Canberra"
    _, said = served.process.communicate(timeout=60)
    assert served.process.returncode == 0, said
