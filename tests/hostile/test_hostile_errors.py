"""What a client is told of a failure: nothing of what the provider says about the service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade._masking import GAP, mask_keys, mask_places, mask_quotes
from cascade._printable import printable
from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    LedgerError,
    ModelError,
    ModelUnavailableError,
)
from cascade.models.withholding import withhold
from cascade.service.faults import fault_of
from cascade.service.reload import Loaded
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.conftest import upstream
from tests.service.gateway import configured, gateway

__all__ = ["upstream"]

HOST = "db-7.prod.internal"
SAID = (
    "key sk-live-0123456789abcdef of org-Ab12Cd34Ef was refused by http://10.1.2.3:8000/v1/x "
    f"at {HOST}:5432 for ada@example.org, request req_0a1b2c3d4e, see /srv/models/secret.bin"
)
PARTS = ("sk-live", "org-Ab12", "10.1.2.3", HOST, "ada@", "req_0a1b", "/srv/models")


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-abcdefgh12345678",
        "sk-live-****abcd",
        "csk_" + "a1" * 21,
        "AKIA" + "A1B2C3D4E5F6G7H8",
        "ghp_" + "a" * 36,
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
        "Bearer abc.def",
        "AIza" + "b" * 35,
    ],
)
def test_keys_are_known_by_their_forms(text: str) -> None:
    assert text not in mask_keys(f"the key {text}, which is wrong")
    assert mask_keys(f"the key {text}, which is wrong").startswith("the key ")


def test_a_key_without_a_form_is_masked_where_it_is_known() -> None:
    assert mask_keys("a1b2c3d4e5 is no key", ["a1b2c3d4e5"]) == f"{GAP} is no key"
    assert mask_keys("there is none", ["none"]) == "there is none"


def test_a_password_in_an_address_is_masked() -> None:
    masked = mask_keys("postgresql+asyncpg://ada:hunter2@host/db")
    assert masked == f"postgresql+asyncpg://{GAP}@host/db"


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens must be at most 8192, not 10000",
        "unknown parameter 'user_id' for gpt-5.1-2026-01-01",
        "openai:qwen2.5:14b refused the request (400): no such tool 'run_query'.",
        "Input should be a number and/or null",
        "application/json is needed; 12:30 is no time",
        "the schema's properties.items[0].type is wrong",
    ],
)
def test_what_helps_a_client_stays(text: str) -> None:
    assert mask_places(mask_keys(text)) == text


@pytest.mark.parametrize(
    "text",
    ["http://10.0.0.1/a", "10.0.0.1:80", "redis.svc.cluster:6379", "localhost:11434", "[::1]:80",
     "2001:db8:1:2:3:4:5:6", "a.b@c.org", "org-a1b2c3d4", "/etc/cascade/key", r"C:\keys\a.txt",
     "0a1b2c3d-0a1b-2c3d-4e5f-0a1b2c3d4e5f", "arn:aws:iam::1234:role/x", "file:///etc/passwd"],
)  # fmt: skip
def test_places_are_masked(text: str) -> None:
    masked = mask_places(f"at {text} it failed")
    assert text not in masked
    assert masked.startswith("at ")
    assert masked.endswith(" it failed")


def test_masking_takes_no_time_that_grows_with_the_square_of_a_text() -> None:
    for text in ("a." * 50_000, "a-" * 50_000, "1:" * 50_000, "/a" * 50_000, "x@" * 50_000):
        mask_places(mask_keys(text))


def test_quotes_of_a_question_are_cut_out_also_as_json_and_as_python() -> None:
    asked = "tell me about Ödön von Horváth's\nunwritten diary"
    for spelled in (asked, json.dumps(asked), repr(asked), asked[5:35]):
        told = mask_quotes(f"refused: {spelled} is not allowed", [asked])
        assert "Horváth" not in told, spelled
        assert told.startswith("refused:")
        assert told.endswith("allowed")
    assert mask_quotes("about it", [asked]) == "about it"


def test_what_acts_on_a_terminal_is_shown_instead() -> None:
    text = "a\x1b[2Jb\nc\x9b1md\u202ee\u2028f\U000e0041g\ud800"
    shown = printable(text)
    assert shown == r"a\x1b[2Jb\nc\x9b1md\u202ee\u2028f\U000e0041g\ud800"
    assert printable("a\nb\tc", keep="\n\t") == "a\nb\tc"
    assert printable("Grüße, 東京 👋") == "Grüße, 東京 👋"


def test_an_error_and_those_behind_it_repeat_neither_key_nor_question() -> None:
    class SdkError(Exception):
        def __init__(self, message: str) -> None:
            super().__init__(message)
            self.message = message

        @property
        def reason(self) -> str:
            return self.message

    key, asked = "abcdef-no-known-form", "a question that is nobody's business"
    words = f"{key} may not ask {asked!r} \x1b[31m"
    try:
        try:
            raise SdkError(words)
        except SdkError as cause:
            raise ModelError(words, model="openai:x", status=400) from cause
    except ModelError as caught:
        error = caught
    error.__context__ = error.__cause__  # a ring is walked once
    withhold(error, [HumanMessage(asked), HumanMessage([{"type": "text", "text": asked}])], [key])
    cause = error.__cause__
    assert isinstance(cause, SdkError)
    for text in (str(error), str(cause), cause.message):
        assert key not in text
        assert "nobody's business" not in text
        assert "\x1b" not in text


FAILURES = [
    (AuthenticationError(SAID, model="openai:large", status=401), "refused the key", 502),
    (ModelUnavailableError(SAID, model="openai:large", status=503), "try again later", 502),
    (ModelError(SAID, model="openai:large"), "failed", 502),
    (LedgerError(SAID), "ledger", 503),
    (ConfigurationError(SAID), "log says more", 500),
    (BadRequestError(SAID, model="openai:large", status=400), "was refused by", 502),
]


@pytest.mark.parametrize(("error", "words", "status"), FAILURES, ids=lambda x: type(x).__name__)
def test_a_client_is_told_what_it_can_do_and_the_log_the_rest(
    error: ModelError, words: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    fault = fault_of(error, "/v1/chat/completions")
    assert fault.status == status
    assert words in fault.message
    assert not [part for part in PARTS if part in fault.message]
    if not isinstance(error, BadRequestError):
        assert HOST in caplog.text
        assert "sk-live" not in caplog.text


async def test_of_a_failing_provider_clients_of_all_protocols_learn_nothing(
    upstream: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    question = "what nobody but the model may read"
    asked = [{"role": "user", "content": question}]
    bodies: dict[str, Any] = {
        "/v1/chat/completions": {"messages": asked},
        "/v1/responses": {"input": question},
        "/api/chat": {"messages": asked},
    }
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        for status in (400, 401, 404):  # those that are not tried again
            for path, body in bodies.items():
                for stream in (False, True):
                    failing = replies.error(status, f"{SAID}. You asked: {question}")
                    upstream.will(*[failing] * 8)
                    answer = await running.client.post(
                        path, json={"model": "support", "stream": stream, **body}
                    )
                    told = answer.text + str(answer.headers)
                    place = (status, path, stream, told)
                    assert answer.status_code >= 400, place
                    found = [p for p in (*PARTS, question, upstream.url) if p in told]
                    assert not found, place
                    upstream._script.clear()
    assert question not in caplog.text
    assert "sk-live" not in caplog.text
    assert "sk-upstream" not in caplog.text


async def test_whether_it_is_ready_is_told_to_everybody_without_paths(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        problem = f"{tmp_path}/calibration.json cannot be read: Permission denied."
        running.service.reloads.last["support"] = Loaded("support", datetime.now(UTC), problem)
        told = (await running.get("/readyz")).json()["calibration_problems"]
    assert told == {"support": "calibration.json cannot be read: Permission denied."}
