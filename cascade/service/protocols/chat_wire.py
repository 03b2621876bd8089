"""`/v1/chat/completions` on the wire: the request as it is read, the answer as it is described."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, model_validator

from cascade.service.protocols.asking import Numbers, Untrue, Wishes
from cascade.service.protocols.documented import errors
from cascade.service.protocols.extension import CascadeReport, FinishReason, Usage

MOST_RUNS = 16
"""Answers to one request: each is a run that is paid for."""


class TextPart(BaseModel):
    """A piece of text."""

    model_config = ConfigDict(extra="allow")
    type: Literal["text"]
    text: str


class RefusalPart(BaseModel):
    """What an assistant has said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(BaseModel):
    """Where an image is: an address, or its data as `data:image/png;base64,…`."""

    model_config = ConfigDict(extra="allow")
    url: str
    detail: str | None = None


class ImagePart(BaseModel):
    """An image; it goes to the tiers as it is."""

    type: Literal["image_url"]
    image_url: ImageUrl


class AudioPart(BaseModel):
    """Sound; it goes to the tiers as it is."""

    type: Literal["input_audio"]
    input_audio: dict[str, Any]


class FilePart(BaseModel):
    """A file; it goes to the tiers as it is."""

    type: Literal["file"]
    file: dict[str, Any]


Part = Annotated[
    TextPart | RefusalPart | ImagePart | AudioPart | FilePart, Field(discriminator="type")
]


class CalledFunction(BaseModel):
    """What a model wants to be called."""

    name: str
    arguments: str = Field(description="A JSON object as text.")


class ToolCall(BaseModel):
    """A call that an assistant has made."""

    model_config = ConfigDict(extra="allow")
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """One message of the conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    # Clients send back what they were answered, here or elsewhere; no tier is shown these.
    annotations: list[Any] | None = Field(default=None, exclude=True)
    audio: None = Field(default=None, exclude=True)
    function_call: None = Field(default=None, exclude=True)
    reasoning_content: str | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _result_of_a_call(self) -> Message:
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("a message of role tool needs tool_call_id")
        return self


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="A JSON schema.")
    strict: StrictBool | None = None


class Tool(BaseModel):
    """A tool."""

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    """The name of a function."""

    name: str


class NamedTool(BaseModel):
    """The tool that has to be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(BaseModel):
    """The schema that an answer keeps to."""

    model_config = ConfigDict(extra="allow")
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    strict: StrictBool | None = None


class TextFormat(BaseModel):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(BaseModel):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(BaseModel):
    """JSON that keeps to a schema: a draft that breaks it is escalated."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class StreamOptions(BaseModel):
    """Of a stream."""

    model_config = ConfigDict(extra="forbid")
    include_usage: StrictBool = Field(default=False, description="A last chunk with the usage.")
    include_obfuscation: Untrue | None = None


class ChatRequest(Numbers):
    """A conversation to be answered.

    What is not listed here goes to every tier as it is; a tier that does not know it refuses it.
    """

    model_config = ConfigDict(
        extra="allow",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {
                    "model": "default",
                    "messages": [{"role": "user", "content": "What is the capital of Australia?"}],
                }
            ]
        },
    )
    model: str = Field(min_length=1, description="The name of a cascade; `/v1/models` lists them.")
    messages: list[Message] = Field(min_length=1)
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MOST_RUNS, description="Each is a run.")
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None
    temperature: StrictFloat | None = Field(default=None, ge=0, le=2)
    top_p: StrictFloat | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    logprobs: StrictBool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    cascade: Wishes | None = Field(default=None, description="An extension; headers do as well.")


class AnsweredMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None = Field(description="Why there is no answer, where there is none.")
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = Field(default=None, description="The tier's thinking.")


class Choice(BaseModel):
    """One answer."""

    index: int
    message: AnsweredMessage
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """The answer to a `ChatRequest`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = Field(description="Of the answers' own calls; null: unknown.")
    system_fingerprint: str | None
    cascade: CascadeReport


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """An error in OpenAI's form."""

    error: ErrorBody


ERRORS = errors(ErrorReply)
"""Of the routes of OpenAI's protocol."""
