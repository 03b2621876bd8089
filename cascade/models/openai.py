"""`openai:` models: OpenAI itself and, with `base_url`, every server that speaks its API."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cascade.errors import MissingKeyError
from cascade.models.base import Request
from cascade.models.failures import Caller, without_secrets
from cascade.models.http import check_address, is_loopback, stays_here
from cascade.models.logprobs import answer_logprobs
from cascade.models.served import ServedModel
from cascade.models.wire import chat_payload
from cascade.state import Completion

if TYPE_CHECKING:
    import openai

OPENAI_URL = "https://api.openai.com/v1"


def reasons(model: str) -> bool:
    """Whether a name is that of a reasoning model of OpenAI, which returns no log-probabilities."""
    return model.rpartition("/")[2].startswith(("o1", "o3", "o4", "gpt-5", "gpt-6"))


class OpenAIModel(ServedModel):
    """A model behind an OpenAI-compatible chat-completions API.

    Args:
        model: the model's name at the provider.
        base_url: address of a compatible server, by default OPENAI_BASE_URL or OpenAI's own.
        api_key: by default OPENAI_API_KEY; a server on this machine needs none.
        options: parameters for every request (`top_p`, `reasoning_effort`, …).

    Raises:
        ConfigurationError: the address is none.
        MissingKeyError: no key was given or found, and the server is not on this machine.
    """

    provider = "openai"
    path = "/chat/completions"

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
        key = api_key or os.environ.get("OPENAI_API_KEY") or ""
        address = without_secrets(self.base_url)
        if not key and not is_loopback(self.base_url) and "@" not in self.base_url:
            raise MissingKeyError(
                f"{self.name} at {address} needs an API key: set OPENAI_API_KEY or give api_key."
            )
        headers = {
            "openai-organization": os.environ.get("OPENAI_ORG_ID"),
            "openai-project": os.environ.get("OPENAI_PROJECT_ID"),
        }
        caller = Caller(self.name, address, start="Is the server running? Check base_url.")
        super().__init__(caller, key, {name: value for name, value in headers.items() if value})

    async def _address(self) -> str:
        return self.base_url

    def payload(self, request: Request) -> dict[str, Any]:
        """The JSON body of a request."""
        limit_field = "max_completion_tokens" if reasons(self.model) else "max_tokens"
        payload = {**self._defaults, **chat_payload(request, limit_field=limit_field)}
        if not self.returns_logprobs:
            payload.pop("logprobs", None)
            payload.pop("top_logprobs", None)
        return {"model": self.model, **payload}

    async def _payload(self, request: Request, *, stream: bool) -> dict[str, Any]:
        usage = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return self.payload(request) | usage

    async def _complete(self, request: Request) -> Completion:
        if request.answer is None:
            return await super()._complete(request)
        return await self._scored(request, request.answer)

    async def _scored(self, request: Request, answer: str) -> Completion:
        """A given answer with its log-probabilities, which vLLM returns of a prompt, in one pass.

        `prompt_logprobs` 0 stands for those of the prompt's own tokens
        (https://docs.vllm.ai/en/latest/serving/openai_compatible_server). Other servers ignore it;
        then there is no score.
        """
        asked = self.payload(replace(request, answer=None, logprobs=False, max_tokens=1))
        asked |= {
            "messages": [*asked["messages"], {"role": "assistant", "content": answer}],
            "add_generation_prompt": False,
            "continue_final_message": True,
            "prompt_logprobs": 0,
        }
        reply = await (await self._connected()).request(self.path, asked)
        completion = self.read(reply)
        places = reply.get("prompt_logprobs")
        tokens = [
            {"token": token.get("decoded_token"), "logprob": token.get("logprob")}
            for place in (places if isinstance(places, list) else ())
            for token in ([*place.values()][:1] if isinstance(place, dict) else ())
            if isinstance(token, dict)
        ]
        logprobs = answer_logprobs(tokens, answer)
        return replace(completion, text=answer, logprobs=logprobs, finish_reason="stop")

    def open_client(self) -> openai.AsyncOpenAI:
        """The official client, for other parts of the API, such as files and batches.

        What it raises goes through `named_errors`. It belongs to the running event loop.

        Raises:
            RealRequestForbiddenError: real requests are switched off for tests.
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

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Raise what the official client raises within under its name in `cascade.errors`."""
        try:
            yield
        except Exception as error:
            named = self._caller.failed(error)
            if named is None:
                raise
            raise named from error
