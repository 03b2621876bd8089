"""`/v1/responses` on the wire: the request as it is read, the answer as it is described."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat

from cascade.service.protocols.asking import Numbers, Untrue, Wishes
from cascade.service.protocols.extension import CascadeReport


class InputText(BaseModel):
    """A piece of text, of either side."""

    model_config = ConfigDict(extra="allow")
    type: Literal["input_text", "output_text"]
    text: str


class InputRefusal(BaseModel):
    """What an assistant has said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class InputImage(BaseModel):
    """An image by its address or its data; it goes to the tiers as it is."""

    type: Literal["input_image"]
    image_url: str
    detail: str | None = None


InputPart = Annotated[InputText | InputRefusal | InputImage, Field(discriminator="type")]


class InputMessage(BaseModel):
    """One message of the conversation."""

    model_config = ConfigDict(extra="allow")
    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[InputPart]


class FunctionCall(BaseModel):
    """A call that the assistant has made."""

    model_config = ConfigDict(extra="allow")
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(BaseModel):
    """What came of a call."""

    model_config = ConfigDict(extra="allow")
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputPart]


class ReasoningItem(BaseModel):
    """What an assistant has thought, somewhere else; no tier is shown it."""

    model_config = ConfigDict(extra="allow")
    type: Literal["reasoning"]


InputItem = FunctionCall | FunctionCallOutput | ReasoningItem | InputMessage

Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]
"""All but the first are of items that no answer has here, so that nothing is missing."""


class ResponseTool(BaseModel):
    """A function that the model may call."""

    type: Literal["function"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


class NamedFunction(BaseModel):
    """The function that has to be called."""

    type: Literal["function"] = "function"
    name: str


class TextFormat(BaseModel):
    """The form of the answer: any text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: StrictBool | None = None


class TextOptions(BaseModel):
    """Of the text of the answer."""

    model_config = ConfigDict(extra="forbid")
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(BaseModel):
    """Of models that think."""

    model_config = ConfigDict(extra="forbid")
    effort: str | None = None
    summary: Literal["auto"] | None = Field(
        default=None, description="Where there is one; here there is none."
    )


class ResponseStreamOptions(BaseModel):
    """Of a stream."""

    model_config = ConfigDict(extra="forbid")
    include_obfuscation: Untrue | None = None


class ResponseRequest(Numbers):
    """Something to be answered.

    What is not listed here goes to every tier as it is; a tier that does not know it refuses it.
    """

    model_config = ConfigDict(
        extra="allow",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"model": "default", "input": "What is the capital of Australia?"}]
        },
    )
    model: str = Field(min_length=1, description="The name of a cascade; `/v1/models` lists them.")
    input: str | list[InputItem]
    instructions: str | None = None
    previous_response_id: str | None = Field(
        default=None, description="An answer that this service has stored, and still has."
    )
    store: StrictBool | None = Field(
        default=None, description="By default true; in memory, bounded."
    )
    stream: StrictBool | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: StrictBool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: StrictFloat | None = Field(default=None, ge=0, le=2)
    top_p: StrictFloat | None = Field(default=None, ge=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[Include] | None = None
    stream_options: ResponseStreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    background: Untrue | None = None
    metadata: dict[str, str] | None = None
    cascade: Wishes | None = Field(default=None, description="An extension; headers do as well.")

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer comes with its log-probs."""
        return (
            "message.output_text.logprobs" in (self.include or ()) or self.top_logprobs is not None
        )


class ResponseUsage(BaseModel):
    """Tokens of the answer's own call."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens_details: dict[str, int]


class ResponseBody(BaseModel):
    """The answer."""

    model_config = ConfigDict(extra="allow")
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[dict[str, Any]]
    usage: ResponseUsage | None
    cascade: CascadeReport | None = None
