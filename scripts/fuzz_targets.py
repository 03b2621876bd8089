"""What reads bytes of others, each as a function that raises nothing but a fault of ours.

An error that its documentation names is an answer; any other one is a finding, and so is a law that
does not hold. `scripts/fuzz.py` looks for inputs; `tests/fuzzed` tries those that were found.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langchain_core.messages import ToolCall
from openai._streaming import SSEDecoder
from pydantic import ValidationError
from starlette.requests import Request as HttpRequest

from cascade.confidence.calibration import Calibration
from cascade.errors import ConfigurationError, InputError
from cascade.evaluation.transcripts import read_transcripts
from cascade.ledger import Price
from cascade.models import gguf, ollama_wire, openai_wire
from cascade.models.base import Request
from cascade.models.called import call_logprobs
from cascade.models.logprobs import Growing, answer_logprobs
from cascade.models.posting import read_json
from cascade.models.recording import answer_line, read_recording
from cascade.models.spoken_calls import Holding, read_calls
from cascade.questions import to_messages
from cascade.service.faults import ServiceError
from cascade.service.protocols import chat, ollama, responses_reading
from cascade.service.protocols.asking import check_body
from cascade.service.protocols.chat_wire import ChatRequest
from cascade.service.protocols.ollama_wire import OllamaChatRequest
from cascade.service.protocols.responses_wire import ResponseRequest
from cascade.service.reading import read_settings
from cascade.state import Completion, Usage

__all__ = ["TARGETS"]

MEMORY = Path("/dev/shm")
TOOLS: Sequence[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
]


@contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    where = MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


def _check_completion(completion: Completion) -> None:
    for tokens in (completion.logprobs, completion.call_logprobs):
        assert tokens is None or all(-1e4 < token.logprob <= 0 for token in tokens)
    usage = completion.usage
    for count in (usage.input_tokens, usage.output_tokens, usage.cached_tokens):
        assert count is None or count >= 0
    assert completion.busy_ms is None or completion.busy_ms >= 0
    completion.to_message("small")


def openai_stream(data: bytes) -> None:
    """A body of server-sent events, in OpenAI's format."""
    asyncio.run(_read_events(data))


async def _read_events(data: bytes) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield data

    answer, text = openai_wire.Answer(), ""
    try:
        async for event in SSEDecoder().aiter_bytes(parts()):
            if event.data.startswith("[DONE]"):
                break
            text += answer.add(read_json(event.data))
        completion = answer.completion(asked_for="m")
    except ValueError:
        return
    assert completion.text == text
    _check_completion(completion)


def ollama_stream(data: bytes) -> None:
    """Lines of JSON, in Ollama's format."""
    answer, text = ollama_wire.Answer(), ""
    try:
        for line in data.splitlines():
            text += answer.add(read_json(line))
        completion = answer.completion(asked_for="m")
    except (ValueError, TypeError, AttributeError):
        # What the adapter catches; the client of Ollama has read the lines before it.
        return
    assert completion.text == text
    _check_completion(completion)


def logprobs(data: bytes) -> None:
    """Lists of tokens, beside the text that they may spell."""
    try:
        given = read_json(data)
    except ValueError:
        return
    if not isinstance(given, dict):
        return
    text, items = str(given.get("text") or ""), given.get("items")
    thinking = given.get("thinking") if isinstance(given.get("thinking"), str) else None
    for trusted in (False, True):
        found = answer_logprobs(items, text, thinking=thinking, trusted=trusted)
        assert found is None or (found and all(token.logprob <= 0 for token in found))
    call = ToolCall(name="weather", args={"city": text}, id="c", type="tool_call")
    call_logprobs(items, [call], thinking=thinking)
    growing = Growing()
    for item in items if isinstance(items, list) else ():
        growing.add([item], str(item.get("token")) if isinstance(item, dict) else "", plain=True)


def spoken_calls(data: bytes) -> None:
    """Tool calls in the text of an answer, whole and piece by piece."""
    text = data.decode(errors="replace")
    calls = read_calls(text, TOOLS)
    assert all(call["name"] == "weather" for call in calls)
    json.dumps([call["args"] for call in calls], allow_nan=False)
    holding = Holding()
    shown = "".join(holding.add(text[at : at + 3]) for at in range(0, len(text), 3))
    assert shown + holding.release() == text


def prices(data: bytes) -> None:
    """Prices as a file of settings has them."""
    try:
        given = read_json(data)
    except ValueError:
        return
    if not isinstance(given, dict):
        return
    makers: dict[str, Callable[..., Price]] = {"price": Price, "local": Price.local}
    names = {"price": set(Price.model_fields), "local": {"hardware_per_hour", "utilisation"}}
    names["local"] |= {"kw", "kwh"}
    for kind, make in makers.items():
        try:
            price = make(**{name: given[name] for name in names[kind] if name in given})
        except ConfigurationError:
            continue
        cost = price.cost(Usage(input_tokens=1000, output_tokens=10, cached_tokens=3), 12.5, 1)
        assert cost is None or (cost.is_finite() and cost >= 0)


def recordings(data: bytes) -> None:
    """A file of recorded answers."""
    with _file(data, "recording.jsonl") as path:
        try:
            found = read_recording(path)
        except ConfigurationError:
            return
    asked = Request(messages=tuple(to_messages("2 + 2?")))
    for answers in found.answers.values():
        for answer in answers:
            answer_line(asked, answer)


def calibrations(data: bytes) -> None:
    """A file of a calibration."""
    with _file(data, "calibration.json") as path:
        try:
            calibration = Calibration.load(path)
        except ConfigurationError:
            return
    names = calibration.signals
    estimate = calibration.estimate(dict.fromkeys(names, -0.3), names)
    assert estimate is None or 0.0 <= estimate.confidence <= 1.0


def gguf_heads(data: bytes) -> None:
    """The head of a file of weights."""
    with _file(data, "model.gguf") as path:
        try:
            gguf.context_length(path)
            gguf.chat_template(path)
        except ConfigurationError:
            return


def configurations(data: bytes, name: str = "service.yaml") -> None:
    """The configuration of a service."""
    with _file(data, name) as path:
        try:
            read_settings(path, {})
        except ConfigurationError:
            return


def toml_configurations(data: bytes) -> None:
    """The same in TOML."""
    configurations(data, "service.toml")


def transcripts(data: bytes) -> None:
    """A file of transcripts."""
    with _file(data, "transcripts.jsonl") as path:
        try:
            for record in read_transcripts(path):
                record.to_line()
        except ConfigurationError:
            return


def _body(data: bytes) -> tuple[HttpRequest, Any]:
    """A request that the gateway has let in, with its body.

    Raises:
        ServiceError: it is no JSON, or refused.
    """

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    request = HttpRequest(scope, receive)
    try:
        given = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ServiceError(400, str(error)) from None
    asyncio.run(check_body(request))
    return request, given


def _asked(messages: Sequence[Any]) -> None:
    """The conversation on its way: as LangChain's messages, and in the formats of providers."""
    asked = Request(messages=tuple(to_messages({"messages": list(messages)})))
    json.dumps(openai_wire.chat_payload(asked), allow_nan=False)
    try:
        ollama_wire.chat_payload(asked, {})
    except ollama_wire.UnreadableContentError:
        return


def gateway_chat(data: bytes) -> None:
    """A body of `/v1/chat/completions`."""
    try:
        request, given = _body(data)
        _asked(chat.read(request, ChatRequest.model_validate(given)).messages)
    except (ValidationError, ServiceError, InputError):
        return


def gateway_ollama(data: bytes) -> None:
    """A body of `/api/chat`."""
    try:
        _, given = _body(data)
        body = OllamaChatRequest.model_validate(given)
        ollama._settings(body, {})  # noqa: SLF001 - the reading itself
        _asked(ollama._messages(body.messages))  # noqa: SLF001
    except (ValidationError, ServiceError, InputError):
        return


def gateway_responses(data: bytes) -> None:
    """A body of `/v1/responses`."""
    try:
        _, given = _body(data)
        body = ResponseRequest.model_validate(given)
        responses_reading.settings_of(body)
        _asked(responses_reading.messages_of(body.input))
    except (ValidationError, ServiceError, InputError):
        return


TARGETS: dict[str, Callable[[bytes], None]] = {
    reader.__name__: reader
    for reader in (
        calibrations,
        configurations,
        gateway_chat,
        gateway_ollama,
        gateway_responses,
        gguf_heads,
        logprobs,
        ollama_stream,
        openai_stream,
        prices,
        recordings,
        spoken_calls,
        toml_configurations,
        transcripts,
    )
}
"""By name, each of which has its beginnings in `fuzz_seeds.SEEDS`."""
