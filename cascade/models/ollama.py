"""`ollama:` models, through Ollama's own chat API.

Not through its OpenAI-compatible one: only here are the durations, the thinking kept apart and
`keep_alive`. Replies are put into OpenAI's form and read as such.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import urlsplit

from cascade.errors import ModelNotFoundError, UnsupportedContentError
from cascade.models.base import Request
from cascade.models.http import check_address, without_secrets
from cascade.models.openai import ServedModel

_TOP_LEVEL = {"model", "tools", "logprobs", "top_logprobs", "format", "truncate", "shift"}
_TOP_LEVEL |= {"think", "keep_alive"}  # every other parameter is one of the `options`


def server_address(host: str | None) -> str:
    """The address of a server, as Ollama's own clients read `host` or OLLAMA_HOST: scheme, name and
    port may be missing (`box`, `:1234`, `https://box/ollama`). A `ConfigurationError` for none."""
    given = (host or os.environ.get("OLLAMA_HOST") or "").strip().rstrip("/")
    scheme, marked, rest = given.rpartition("://")
    url = f"{scheme or 'http'}://{'127.0.0.1' if rest[:1] in ('', ':', '/') else ''}{rest}"
    check_address(url, "http://127.0.0.1:11434")
    parts = urlsplit(url)
    if parts.port is None and not marked:
        parts = parts._replace(netloc=f"{parts.netloc}:11434")
    return parts.geturl()


class OllamaModel(ServedModel):
    """A model that an Ollama server runs, by default that of OLLAMA_HOST or this machine's.

    Options are `think`, `keep_alive`, and model options such as `num_ctx`.

    Raises:
        ConfigurationError: the address is none.
    """

    provider = "ollama"
    path = "/api/chat"
    limit = "num_predict"
    streaming: ClassVar[Any] = {"stream": True}
    ends_with_reason = True
    advice: ClassVar[Mapping[Any, str]] = {
        ConnectionRefusedError: "Is Ollama running? `ollama serve`, or set OLLAMA_HOST.",
        ModelNotFoundError: "Get it with `ollama pull {model}`.",
    }
    forces_tools = False

    def _found(self, base_url: str | None, api_key: str) -> tuple[str, str]:
        return server_address(base_url), api_key

    async def digest(self) -> str | None:
        """The server's own digest of the model, None when it has no model of that name."""
        listed = await self._connection.request("/api/tags")
        known = {model.get("model"): model.get("digest") for model in listed.get("models") or ()}
        return known.get(self.model) or known.get(f"{self.model}:latest")

    async def warm(self) -> None:
        """Have the server load the model: that is what a request without messages does."""
        self.check_allowed()
        await self._connection.request(self.path, self.payload(Request(())))

    def payload(self, request: Request) -> dict[str, Any]:
        """The JSON body of a request."""
        tools = () if request.tool_choice == "none" else request.tools
        plain = replace(request, schema=None, tools=tools, tool_choice=None)
        # Ollama would drop the beginning of a prompt that is too long, and say nothing.
        payload: dict[str, Any] = {"stream": False, "truncate": False, "options": {}}
        if request.schema is not None:
            payload["format"] = dict(request.schema)
        for name, value in super().payload(plain).items():
            if name == "options":
                payload["options"] |= value
            elif name == "messages":
                payload[name] = [self._message(message) for message in value]
            elif name in _TOP_LEVEL:
                payload[name] = value
            else:
                payload["options"][name] = value
        return payload

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        content = message.get("content") or ""
        if not isinstance(content, str):  # blocks of text alone are one text
            other = next(block.get("type") for block in content if block.get("type") != "text")
            raise UnsupportedContentError(
                f"{self.name} is sent text alone, not {other!r}: a model without vision would "
                f"leave it out and say nothing. For one with vision give Tier('openai:{self.model}'"
                f", base_url='{without_secrets(self.base_url)}/v1').",
                model=self.name,
            )
        told = {"role": message["role"], "content": content}
        calls = [call["function"] for call in message.get("tool_calls", ())]
        made = [{"function": {**c, "arguments": json.loads(c["arguments"])}} for c in calls]
        more = {"tool_calls": made, "tool_name": message["role"] == "tool" and message.get("name")}
        return told | {name: part for name, part in more.items() if part}

    def _chunk(self, part: Any) -> Any:
        message = part["message"]
        choice = {
            "delta": {**message, "reasoning_content": message.get("thinking")},
            "logprobs": {"content": part.get("logprobs")},
            "finish_reason": (part.get("done_reason") or "stop") if part.get("done") else None,
        }
        counts = {"prompt_tokens": "prompt_eval_count", "completion_tokens": "eval_count"}
        usage = {name: part.get(told) for name, told in counts.items()}
        return {"model": part.get("model"), "choices": [choice], "usage": usage, "timings": part}
