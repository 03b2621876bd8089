"""The gateway: `cascade serve` with the official clients, keys, budgets, streams."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest

from tests.acceptance import commands
from tests.acceptance.upstream import Answer, Held, Upstream, failure
from tests.servers.fake import free_port

ASKED: Any = [{"role": "user", "content": "What is the capital of Australia?"}]
FORM = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def configure(folder: Path, upstream: Upstream, port: int = 0, more: str = "") -> Path:
    """Two cascades of the same two models."""
    tiers = "".join(
        f"      - {{model: 'openai:{name}', base_url: '{upstream.openai_url}', max_tokens: 100, "
        f"api_key_env: UPSTREAM_KEY, price: {{input: {price}, output: {price}}}}}\n"
        for name, price in (("small", 1), ("large", 10))
    )
    cascades = "".join(
        f"  {name}:\n    threshold: 0.8\n    tiers:\n{tiers}" for name in ("support", "sales")
    )
    listen = f"ledger: sqlite:///ledger.db\nlisten: {{port: {port}}}\n"
    path = folder / "cascade.yaml"
    path.write_text(f"{listen}cascades:\n{cascades}{more}")
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


def serve(folder: Path, upstream: Upstream, *options: str, configure: Any = configure) -> Served:
    port = free_port()
    config = configure(folder, upstream, port)
    process = commands.start("serve", config, *options, UPSTREAM_KEY="sk-upstream")
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 300
    while True:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        try:
            httpx.get(f"{url}/readyz", timeout=5)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return Served(upstream, config, url, process)


@contextmanager
def serving(folder: Path, **how: Any) -> Iterator[Served]:
    """A gateway before a server of its own."""
    with Upstream() as upstream, pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPSTREAM_KEY", "sk-upstream")
        served = serve(folder, upstream, **how)
        try:
            yield served
        finally:
            served.process.terminate()
            served.process.communicate(timeout=300)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("gateway")) as served:
        yield served


@pytest.fixture
def client(gateway: Served) -> Iterator[openai.OpenAI]:
    gateway.says()
    with gateway.client() as made:
        yield made


def chat(client: openai.OpenAI, **given: Any) -> Any:
    return client.chat.completions.create(**{"model": "support", "messages": ASKED, **given})


# --- the protocols


@pytest.mark.parametrize(
    ("p", "text", "tier", "cost"),
    [(0.95, "Canberra", "small", "0.00011"), (0.3, "It is Canberra", "large", "0.00121")],
)
def test_a_chat_completion_is_that_of_a_cascade_and_says_so(
    gateway: Served, client: openai.OpenAI, p: float, text: str, tier: str, cost: str
) -> None:
    gateway.says(p)
    answer = chat(client)
    assert answer.choices[0].message.content == text
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (100, 10)
    said = answer.cascade
    assert (said["tier"], said["escalated"], said["calibrated"]) == (tier, tier == "large", False)
    assert Decimal(str(said["cost_usd"])) == Decimal(cost)


@pytest.mark.parametrize("p", [0.95, 0.3])
def test_a_stream_never_shows_a_rejected_draft(
    gateway: Served, client: openai.OpenAI, p: float
) -> None:
    gateway.says(p, small="a draft of it", large="the answer to it")
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == ("a draft of it" if p > 0.8 else "the answer to it")
    assert [c.usage.completion_tokens for c in chunks if c.usage] == [10]


def test_tools_are_called(gateway: Served, client: openai.OpenAI) -> None:
    for name in ("small", "large"):
        gateway.upstream.says(name, Answer(calls=(("weather", {"city": "Canberra"}),)))
    tool = {"type": "function", "function": {"name": "weather", "parameters": FORM}}
    (call,) = chat(client, tools=[tool]).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Canberra"}


def test_responses_are_answered_and_streamed(gateway: Served, client: openai.OpenAI) -> None:
    gateway.says(0.3)
    answer = client.responses.create(model="support", input="Capital of Australia?")
    assert answer.output_text == "It is Canberra"
    events = client.responses.create(model="support", input="Capital?", stream=True)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "It is Canberra"


def test_ollamas_client_chats_streams_and_lists(gateway: Served) -> None:
    gateway.says(0.3)
    secret = gateway.key("ollama")["secret"]
    client = ollama.Client(gateway.url, headers={"Authorization": f"Bearer {secret}"})
    assert client.chat("support", ASKED).message.content == "It is Canberra"
    pieces = [part.message.content or "" for part in client.chat("support", ASKED, stream=True)]
    assert "".join(pieces) == "It is Canberra"
    names = {str(model.model).removesuffix(":latest") for model in client.list().models}
    assert names == {"support", "sales"}


def test_a_request_may_say_how_it_is_decided(client: openai.OpenAI) -> None:
    own = {"price_of_error": 10.0, "tags": {"user": "ada"}}
    assert chat(client, extra_body={"cascade": own}).cascade["tier"] == "large"
    with pytest.raises(openai.BadRequestError):
        chat(client, extra_body={"cascade": {"price_of_eror": 10.0}})
    with pytest.raises(openai.NotFoundError):
        chat(client, model="another")


# --- failures


def test_where_the_large_model_is_down_the_draft_is_the_answer_and_says_so(
    gateway: Served, client: openai.OpenAI
) -> None:
    gateway.says(0.3)
    gateway.upstream.says("large", failure(400))
    answer = chat(client)
    assert (answer.choices[0].message.content, answer.cascade["degraded"]) == ("Canberra", True)


def test_where_no_model_answers_the_client_gets_an_error_of_its_own(
    gateway: Served, client: openai.OpenAI
) -> None:
    for name in ("small", "large"):
        gateway.upstream.says(name, failure(400))
    with pytest.raises(openai.APIStatusError) as raised:
        chat(client)
    assert raised.value.status_code in (400, 502)
    assert "sk-upstream" not in str(raised.value)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_call(gateway: Served, stream: bool) -> None:
    gateway.upstream.says("small", Answer("x", held=Held()))
    before = len(gateway.upstream.asked("small"))
    key = await asyncio.to_thread(gateway.key, "leaver")
    headers = {"Authorization": f"Bearer {key['secret']}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=300) as client:
        body = {"model": "support", "messages": ASKED, "stream": stream}
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        seen = await gateway.upstream.has_asked(before + 1, "small")
        asking.cancel()
        await asyncio.wait([asking])
    assert await asyncio.to_thread(seen.left.wait, 300)


# --- keys and budgets


@pytest.mark.parametrize("secret", [None, "csk_wrong"])
def test_without_a_right_key_nobody_gets_in(gateway: Served, secret: str | None) -> None:
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    body, asked = {"model": "support", "messages": ASKED}, len(gateway.upstream.seen)
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
    assert (answer.status_code, len(gateway.upstream.seen)) == (401, asked)


def test_a_revoked_key_is_refused_within_seconds(gateway: Served) -> None:
    key = gateway.key("leaving")
    headers = {"Authorization": f"Bearer {key['secret']}"}
    assert httpx.get(f"{gateway.url}/v1/models", headers=headers).status_code == 200
    commands.cascade("keys", "revoke", gateway.config, key["id"])
    end = time.monotonic() + 300
    while httpx.get(f"{gateway.url}/v1/models", headers=headers).status_code != 401:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_key_has_its_models_and_its_requests_a_minute(gateway: Served) -> None:
    gateway.says()
    client = gateway.client("narrow", "--model", "sales", "--per-minute", "3")
    with pytest.raises((openai.PermissionDeniedError, openai.NotFoundError)):
        chat(client)
    limited = [chat(client, model="sales")]
    with pytest.raises(openai.RateLimitError) as raised:
        limited += [chat(client, model="sales") for _ in range(4)]
    assert float(raised.value.response.headers["retry-after"]) > 0


def test_fifty_requests_at_once_do_not_overspend_a_keys_budget(gateway: Served) -> None:
    gateway.says(0.3)
    key = gateway.key("spender", "--day-usd", "0.02")
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key["secret"], max_retries=0)

    def ask(_: int) -> int:
        try:
            chat(client)
        except openai.APIStatusError as error:
            return error.status_code
        return 200

    with ThreadPoolExecutor(50) as pool:
        ended = list(pool.map(ask, range(50)))
    assert set(ended) == {200, 402}
    assert 0 < ended.count(200) * Decimal("0.00121") <= Decimal("0.02")
    url = f"sqlite:///{gateway.config.parent}/ledger.db"
    report = commands.cascade("report", url, "--tag", f"key={key['id']}", "--json").json
    assert report["requests"] == ended.count(200)


# --- running it


def test_it_says_how_it_is(gateway: Served) -> None:
    assert httpx.get(f"{gateway.url}/readyz").status_code == 200
    document = httpx.get(f"{gateway.url}/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/responses", "/api/chat"} <= set(document["paths"])
    assert "text/html" in httpx.get(gateway.url, follow_redirects=True).headers["content-type"]


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("threshold: 0.8", "threshhold: 0.8", "threshhold"),
        ("api_key_env: UPSTREAM_KEY", "api_key: sk-in-clear-text", "api_key"),
    ],
)
def test_a_configuration_is_checked_with_its_line_before_it_is_served(
    upstream: Upstream, tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    path = configure(tmp_path, upstream)
    check = partial(commands.cascade, "serve", path, "--check", UPSTREAM_KEY="k")
    found = check("--json").json
    assert "support" in json.dumps(found)
    path.write_text(path.read_text().replace(right, wrong))
    done = check(code=2)
    assert f"{path}:" in done.err
    assert said in done.err
    assert "sk-in-clear-text" not in done.err
    assert upstream.seen == []


def test_sigterm_finishes_what_runs_and_leaves_with_0(upstream: Upstream, tmp_path: Path) -> None:
    held, served = Held(), serve(tmp_path, upstream)
    with served.client() as client, ThreadPoolExecutor(1) as pool:
        upstream.says("small", Answer("Canberra", held=held))
        asking = pool.submit(chat, client)
        upstream.wait_for(1, "small")
        served.process.send_signal(signal.SIGTERM)
        held.release()
        assert asking.result(300).choices[0].message.content == "Canberra"
    _, said = served.process.communicate(timeout=300)
    assert served.process.returncode == 0, said
