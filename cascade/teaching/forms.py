"""A lesson as a row of a training file, in the forms that the common trainers read.

TRL's conversational data sets (huggingface.co/docs/trl/dataset_formats): `messages` (language
modelling), `prompt` and `completion`, and `prompt`, `chosen` and `rejected` (preference). Axolotl's
type `chat_template` reads the first, and its `chat_template.default` for DPO the last, with
`field_messages: prompt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cascade.confidence.hostile import as_data
from cascade.errors import InputError
from cascade.ledger.store import mask_secrets
from cascade.teaching.lessons import Lesson

Form = Literal["messages", "prompt_completion", "preference"]
"""Which columns a training file has."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Function(_Strict):
    name: str = Field(min_length=1)
    arguments: str


class _Call(_Strict):
    id: str
    type: Literal["function"]
    function: _Function


class Message(_Strict):
    """A message of a row, in OpenAI's form.

    Attributes:
        role: who speaks.
        content: the text; empty where an assistant only calls tools.
        name: of the speaker, or of the tool that answers.
        tool_calls: of an assistant.
        tool_call_id: the call that a tool's message answers.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str
    name: str | None = None
    tool_calls: list[_Call] | None = Field(default=None, min_length=1)
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"a message of role {self.role!r} calls no tools")
        if not self.content.strip() and not self.tool_calls:
            raise ValueError("a message is empty")
        return self


Answer = Annotated[list[Message], Field(min_length=1, max_length=1)]


class MessagesRow(_Strict):
    """A whole conversation that ends with the answer."""

    messages: list[Message] = Field(min_length=2)

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> MessagesRow:
        if self.messages[-1].role != "assistant":
            raise ValueError("the last message is not an assistant's")
        return self


class CompletionRow(_Strict):
    """A conversation and the answer to it; trainers learn the answer alone."""

    prompt: list[Message] = Field(min_length=1)
    completion: Answer


class PreferenceRow(_Strict):
    """A conversation, the better answer and the worse one."""

    prompt: list[Message] = Field(min_length=1)
    chosen: Answer
    rejected: Answer


ROWS: Mapping[Form, type[_Strict]] = {
    "messages": MessagesRow,
    "prompt_completion": CompletionRow,
    "preference": PreferenceRow,
}
"""The row of each form; `model_validate` holds a row to it."""


def answered(lesson: Lesson) -> dict[str, Any]:
    """The large model's answer as a message."""
    calls = {"tool_calls": [dict(call) for call in lesson.tool_calls]} if lesson.tool_calls else {}
    return {"role": "assistant", "content": lesson.answer, **calls}


def drafted(lesson: Lesson) -> dict[str, Any]:
    """The small model's draft as a message."""
    return {"role": "assistant", "content": lesson.draft or ""}


def row_of(lesson: Lesson, form: Form, *, turned: bool = False) -> tuple[dict[str, Any], bool]:
    """The row of a lesson, with secrets masked and control tokens spelled out.

    Args:
        lesson: what to write.
        form: its columns.
        turned: the draft is the better answer (of `preference` alone).

    Returns:
        the row, and whether anything in it was masked.

    Raises:
        InputError: the conversation is in no form that trainers read.
    """
    asked = [{**message, "content": message.get("content") or ""} for message in lesson.messages]
    good, bad = answered(lesson), drafted(lesson)
    if turned:
        good, bad = bad, good
    row: dict[str, Any]
    match form:
        case "messages":
            row = {"messages": [*asked, good]}
        case "prompt_completion":
            row = {"prompt": asked, "completion": [good]}
        case "preference":
            row = {"prompt": asked, "chosen": [good], "rejected": [bad]}
    plain = _each(row, as_data)
    masked = _each(plain, mask_secrets)
    try:
        valid = ROWS[form].model_validate(masked)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{where}: {first['msg']}") from error
    return valid.model_dump(exclude_none=True), masked != plain


def _each(value: Any, change: Any, key: str = "") -> Any:
    """With every text that somebody has written changed; names and ids are as they are."""
    if isinstance(value, str):
        return change(value) if key in ("content", "arguments") else value
    if isinstance(value, Mapping):
        return {name: _each(each, change, name) for name, each in value.items() if each is not None}
    return [_each(each, change, key) for each in value] if isinstance(value, list) else value
