"""A result of the cascade as a response of OpenAI's protocol."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from cascade.result import CascadeResult
from cascade.service.protocols.chat import call_of, logprobs_of
from cascade.service.protocols.extension import (
    finish_reason_of,
    refusal_of,
    report_of,
    usage_of,
)
from cascade.service.protocols.responses_wire import ResponseRequest


class Writing:
    """Writes the response to a request.

    Attributes:
        id: of the response.
        message_id: of its message.
    """

    def __init__(self, request: ResponseRequest) -> None:
        self._request = request
        self._made = int(time.time())
        self.id = f"resp_{uuid4().hex}"
        self.message_id = f"msg_{uuid4().hex}"

    def head(self, status: str) -> dict[str, Any]:
        """The response without an answer; what was asked for comes back."""
        asked = self._request.model_dump(mode="json", by_alias=True)
        form = (asked["text"] or {}).get("format") or {"type": "text"}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._made,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": asked["instructions"],
            "max_output_tokens": asked["max_output_tokens"],
            "metadata": asked["metadata"] or {},
            "model": asked["model"],
            "output": [],
            "parallel_tool_calls": asked["parallel_tool_calls"] is not False,
            "previous_response_id": asked["previous_response_id"],
            "reasoning": asked["reasoning"],
            "store": asked["store"] is not False,
            "temperature": asked["temperature"],
            "text": {"format": {name: value for name, value in form.items() if value is not None}},
            "tool_choice": asked["tool_choice"] or "auto",
            "tools": asked["tools"] or [],
            "top_p": asked["top_p"],
            "truncation": "disabled",
            "usage": None,
        }

    def body(self, result: CascadeResult) -> dict[str, Any]:
        """The response with its answer."""
        reason, usage = finish_reason_of(result), usage_of([result])
        short = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason)
        status = "completed" if short is None else "incomplete"
        output = []
        if refusal_of(result) or result.answer or not result.message.tool_calls:
            output.append(self._answer(result, status))
        output += [_call(call, index) for index, call in enumerate(result.message.tool_calls)]
        return {
            **self.head(status),
            "incomplete_details": None if short is None else {"reason": short},
            "output": output,
            "usage": None if usage is None else _usage(usage),
            "cascade": report_of([result]),
        }

    def message(self, text: str, status: str, logprobs: object = None) -> dict[str, Any]:
        """The output item with the text."""
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [part],
        }

    def _answer(self, result: CascadeResult, status: str) -> dict[str, Any]:
        refusal = refusal_of(result)
        if refusal is not None:
            part = {"type": "refusal", "refusal": refusal}
            return self.message("", status) | {"content": [part]}
        found = logprobs_of(result, self._request.top_logprobs) if self._wants_logprobs else None
        return self.message(result.answer, status, found and found["content"])

    @property
    def _wants_logprobs(self) -> bool:
        return self._request.wants_logprobs


def _call(call: Any, index: int) -> dict[str, Any]:
    made = call_of(call)
    return {
        "id": f"fc_{index}_{made['id']}",
        "type": "function_call",
        "call_id": made["id"],
        "name": made["function"]["name"],
        "arguments": made["function"]["arguments"],
        "status": "completed",
    }


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": usage["completion_tokens_details"],
        "total_tokens": usage["total_tokens"],
    }
