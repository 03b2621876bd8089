"""`openai:` models: OpenAI itself and, with `base_url`, every server that speaks its API."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cascade.errors import ConfigurationError
from cascade.models.base import Request
from cascade.models.failures import Caller, without_secrets
from cascade.models.http import check_address, is_loopback, stays_here
from cascade.models.logprobs import answer_logprobs
from cascade.models.wire import ServedModel
from cascade.state import Completion

if TYPE_CHECKING:
    import openai

OPENAI_URL = "https://api.openai.com/v1"


def reasons(model: str) -> bool:
    """True if a name is that of a reasoning model of OpenAI, which returns no log-probabilities."""
    return model.rpartition("/")[2].startswith(("o1", "o3", "o4", "gpt-5", "gpt-6"))


class OpenAIModel(ServedModel):
    """A model behind an OpenAI-compatible chat-completions API.

    Args:
        model: the model's name at the provider.
        base_url: address of a compatible server, by default OPENAI_BASE_URL or OpenAI's own.
        api_key: by default OPENAI_API_KEY; a server on this machine needs none.
        options: parameters for every request (`top_p`, `reasoning_effort`, …).

    Raises:
        ConfigurationError: the address is none, or no key was given or found, and the server is
            not on this machine.
    """

    provider = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        check_address(self.base_url, "http://localhost:8000/v1")
        self.server = self.base_url
        self.local = stays_here(self.base_url, model)
        self.returns_logprobs = self.streams_logprobs = not reasons(model)
        self.scores = not self.base_url.startswith("https://api.openai.com/")
        self._defaults = dict(options or {})
        self._key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        address = without_secrets(self.base_url)
        if not self._key and not is_loopback(self.base_url) and "@" not in self.base_url:
            raise ConfigurationError(
                f"{self.name} at {address} needs an API key: set OPENAI_API_KEY or give api_key."
            )
        names = {"openai-organization": "OPENAI_ORG_ID", "openai-project": "OPENAI_PROJECT_ID"}
        headers = {to: os.environ[name] for to, name in names.items() if os.environ.get(name)}
        caller = Caller(self.name, address, start="Is the server running? Check base_url.")
        super().__init__(caller, self.base_url, self._key, headers)

    def payload(self, request: Request) -> dict[str, Any]:
        """The JSON body of a request."""
        payload = {"model": self.model, **self._defaults, **super().payload(request)}
        if reasons(self.model) and "max_tokens" in payload:
            payload["max_completion_tokens"] = payload.pop("max_tokens")
        return payload

    async def _complete(self, request: Request) -> Completion:
        if request.answer is None:
            return await super()._complete(request)
        return await self._scored(request, request.answer)

    async def _scored(self, request: Request, answer: str) -> Completion:
        """A given answer with its log-probabilities, which vLLM returns of a prompt, in one pass:
        `prompt_logprobs` 0 stands for those of its own tokens. Other servers ignore it."""
        asked = self.payload(replace(request, answer=None, logprobs=False, max_tokens=1))
        asked |= {
            "messages": [*asked["messages"], {"role": "assistant", "content": answer}],
            "add_generation_prompt": False,
            "continue_final_message": True,
            "prompt_logprobs": 0,
        }
        reply = await (await self._connected()).request(self.path, asked)
        completion = self.read(reply)
        with self._readable():
            places = [list(place.values()) for place in reply.get("prompt_logprobs") or () if place]
            tokens = [
                {"token": token.get("decoded_token"), "logprob": token.get("logprob")}
                for token, *_ in places
            ]
        logprobs = answer_logprobs(tokens, answer)
        return replace(completion, text=answer, logprobs=logprobs, finish_reason="stop")

    def open_client(self) -> openai.AsyncOpenAI:
        """The official client, for other parts of the API, such as files and batches.

        What it raises goes through `named_errors`. It belongs to the running event loop.
        """
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient  # noqa: PLC0415 - heavy

        self._check_allowed()
        here = is_loopback(self.base_url)
        http_client = DefaultAsyncHttpxClient(trust_env=not here, follow_redirects=False)
        return AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key or "none",
            max_retries=0,
            http_client=http_client,
        )

    def named_errors(self) -> AbstractContextManager[None]:
        """Raises what the official client raises within under its name in `cascade.errors`."""
        return self._caller.named()
