"""Ollama's API on the wire: requests as they are read, answers as they are described."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from cascade.service.protocols.asking import Numbers, Wishes
from cascade.service.protocols.chat_wire import Tool
from cascade.service.protocols.documented import errors
from cascade.service.protocols.extension import CascadeReport


class CalledFunction(BaseModel):
    """What a model wants to be called."""

    model_config = ConfigDict(extra="allow")
    name: str
    arguments: dict[str, Any]


class ToolCall(BaseModel):
    """A call that an assistant has made."""

    model_config = ConfigDict(extra="allow")
    function: CalledFunction


class OllamaMessage(BaseModel):
    """One message of the conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = Field(default=None, description="Base64.")
    thinking: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaRequest(Numbers):
    """What `/api/chat` and `/api/generate` have in common."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: str = Field(min_length=1)
    stream: StrictBool | None = Field(default=None, description="By default true.")
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: dict[str, Any] | None = Field(
        default=None, description="`temperature`, `seed`, `stop`, `num_predict`, …"
    )
    keep_alive: StrictInt | StrictFloat | str | None = None
    think: StrictBool | Literal["low", "medium", "high"] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    truncate: StrictBool | None = None
    shift: StrictBool | None = None
    cascade: Wishes | None = Field(default=None, description="An extension; headers do as well.")


class OllamaChatRequest(OllamaRequest):
    """A conversation to be answered."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "default",
                    "messages": [{"role": "user", "content": "What is the capital of Australia?"}],
                }
            ]
        }
    )
    messages: list[OllamaMessage] = Field(default_factory=list)
    tools: list[Tool] | None = None


class OllamaGenerateRequest(OllamaRequest):
    """A prompt to be answered; `suffix`, `template`, `context` and `raw` are refused."""

    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: StrictBool | None = None


class OllamaAnswer(BaseModel):
    """The answer, or the last line of a stream of them."""

    model_config = ConfigDict(extra="allow")
    model: str
    created_at: str
    message: dict[str, Any] | None = None
    response: str | None = None
    done: bool
    done_reason: str | None = None
    total_duration: int | None = Field(default=None, description="Nanoseconds.")
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    cascade: CascadeReport | None = None


class ShowRequest(BaseModel):
    """Which model to show."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string"}}}
                for name in ("model", "name")
            ]
        },
    )
    model: str | None = None
    name: str | None = Field(default=None, description="The same, in older clients.")
    verbose: StrictBool | None = None


class OllamaError(BaseModel):
    """An error in Ollama's form."""

    error: str


ERRORS = errors(OllamaError)
"""Of the routes of Ollama's protocol."""
