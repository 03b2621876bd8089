"""What a client may say about one request: who decides, until when, where it stays, its tags."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, Literal

from fastapi import Request
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from cascade.service.faults import ServiceError

PREFIX = "x-cascade-"
MOST_TAGS = 20

DEEPEST = 100
"""Parts within parts of a body. Tools of agents have about ten."""

_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")
_LARGE = re.compile(rb"\d[eE]\+?\d{3}|\d{300}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def _untrue(value: bool) -> bool:
    if value:
        raise ValueError("only false can be had here")
    return value


Untrue = Annotated[StrictBool, AfterValidator(_untrue), WithJsonSchema({"const": False})]
"""False, for what clients may say and cannot have; a 0 is none."""


class Numbers(BaseModel):
    """A request whose whole numbers are numbers: `3.0` is one, `false` and `"3"` are none."""

    @field_validator(
        *("n", "seed", "max_tokens", "max_completion_tokens", "max_output_tokens", "top_logprobs"),
        mode="before",
        check_fields=False,
    )
    @classmethod
    def _no_other_kind(cls, value: object) -> object:
        if isinstance(value, bool | str):
            raise PydanticCustomError("number", "Input should be a number")
        return value


_TAG = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A name or a value: no control characters, which a database or a log would stumble over."""


class Wishes(BaseModel):
    """The extension `cascade` of a request's body; each is also a header, `X-Cascade-…`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        title="CascadeExtension",
        json_schema_extra={
            "examples": [{"price_of_error": 0.05, "deadline": 20, "tags": {"user": "ada"}}]
        },
    )

    price_of_error: float | None = Field(default=None, gt=0)
    """Dollars that a wrong answer costs; escalation is weighed against it."""
    max_harm: float | None = Field(default=None, gt=0, lt=1)
    """Bound on P(accepted and wrong); needs a calibration with a certificate for it."""
    escalation_budget: float | None = Field(default=None, ge=0, le=1)
    """Share of requests that may be escalated; needs a calibration."""
    deadline: float | None = Field(default=None, gt=0)
    """Seconds from the arrival of the request to its answer."""
    local_only: bool | Literal["answer", "abstain"] = False
    """Stay on this machine; `abstain` gives no answer where no tier here is good enough."""
    tags: dict[_TAG, _TAG] = Field(
        default_factory=dict, max_length=MOST_TAGS, examples=[{"user": "ada"}]
    )
    """Of the ledger entries of this request; as a header `user=ada,team=x`."""
    show: Literal["verified", "final"] = "verified"
    """What a stream shows: `verified` text as it arrives after the decision, or all at the end."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_other_kind(cls, value: object, info: ValidationInfo) -> object:
        """Headers are text, and are read as what they say; in a body `0` is not `false`."""
        number = isinstance(value, int | float)
        if number and isinstance(value, bool) != (info.field_name == "local_only"):
            kind = "true or false" if info.field_name == "local_only" else "a number"
            raise PydanticCustomError("kind", "Input should be {kind}", {"kind": kind})
        return value

    @property
    def decides(self) -> bool:
        """Whether another policy than the cascade's own decides."""
        given = (self.price_of_error, self.max_harm, self.escalation_budget, self.deadline)
        return any(value is not None for value in given)


NONE: Final = Wishes()
"""Nothing was said."""


def read_wishes(request: Request, extension: Wishes | None) -> Wishes:
    """What a request says about itself, in its headers and in the body's `cascade`.

    Raises:
        ServiceError: 400, something there has no meaning, or is said twice.
    """
    said, wishes = _in_headers(request), extension or NONE
    if twice := sorted(said.keys() & wishes.model_fields_set):
        raise ServiceError(
            400,
            f"{', '.join(twice)}: given in a header and in the body; give one of them.",
            code="invalid_value",
            param=f"cascade.{twice[0]}",
        )
    if said.get("show") == "optimistic":
        raise ServiceError(
            400,
            "show=optimistic: what a stream of this protocol has shown cannot be withdrawn, and a "
            "draft may be rejected. Leave it out.",
            code="unsupported_value",
            param="cascade.show",
        )
    if said:
        try:
            read = Wishes.model_validate(said)
        except ValidationError as error:
            raise _meaningless(error) from None
        wishes = wishes.model_copy(update={name: getattr(read, name) for name in said})
    tags = _traced(request)
    return wishes.model_copy(update={"tags": {**wishes.tags, **tags}}) if tags else wishes


def patience_of(request: Request) -> float | None:
    """How long a client waits for a whole answer, in seconds; None where it does not say.

    OpenAI's clients say it with each request (`openai` for Python as the time between two bytes,
    which of an answer in one piece is all of it). What is no time is none: nobody has written it.
    """
    for name in ("x-stainless-read-timeout", "x-stainless-timeout"):
        given = request.headers.get(name)
        if given is not None and _SECONDS.fullmatch(given) and float(given) > 0:
            return float(given)
    return None


async def check_body(request: Request) -> None:
    """Refuse what JSON can spell and no provider can be sent: halves of characters, numbers that
    are none, and parts within parts without end.

    Raises:
        ServiceError: 400, the body has one.
    """
    raw = await request.body()
    if raw.count(b"{") + raw.count(b"[") > DEEPEST and _depth(json.loads(raw)) > DEEPEST:
        raise ServiceError(
            400,
            f"the body has parts within parts, more than {DEEPEST} deep.",
            code="invalid_value",
        )
    if (b"NaN" in raw or b"Infinity" in raw or _LARGE.search(raw)) and not _finite(raw):
        raise ServiceError(
            400,
            "the body holds a number that is none, or too large: NaN, Infinity, 1e999.",
            code="invalid_value",
        )
    if b"\\ud" not in raw and b"\\uD" not in raw:
        return
    try:
        json.dumps(json.loads(raw), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ServiceError(
            400,
            "the body holds half of a surrogate pair (\\ud800 to \\udfff), which is no text.",
            code="invalid_value",
        ) from None


def _finite(raw: bytes) -> bool:
    try:
        json.dumps(json.loads(raw), allow_nan=False)
    except ValueError:
        return False
    return True


def _depth(value: object) -> int:
    depth, parts = 0, [value]
    while parts:
        depth += 1
        parts = [
            inner
            for part in parts
            if isinstance(part, dict | list)
            for inner in (part.values() if isinstance(part, dict) else part)
        ]
    return depth


def _in_headers(request: Request) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, value in request.headers.items():
        if name.startswith(PREFIX):
            field = name.removeprefix(PREFIX).replace("-", "_")
            said[field] = _tags(value) if field == "tags" else value
    return said


def _tags(header: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in header.split(",") if pair.strip()]
    for name, equals, _ in pairs:
        if not equals or not name.strip():
            raise ServiceError(
                400,
                f"X-Cascade-Tags: {header!r} has no names and values: user=ada,team=x.",
                code="invalid_value",
                param="cascade.tags",
            )
    return {name.strip(): value.strip() for name, _, value in pairs}


def _traced(request: Request) -> dict[str, str]:
    """Tags by which a request is found again; a broken `traceparent` is no trace (W3C)."""
    tags = {}
    given = request.headers.get("x-request-id")
    if given is not None:
        if not _REQUEST_ID.fullmatch(given):
            raise ServiceError(
                400,
                "X-Request-Id: 1 to 128 visible ASCII characters.",
                code="invalid_value",
                param="X-Request-Id",
            )
        tags["request_id"] = given
    trace = _TRACE.fullmatch(request.headers.get("traceparent", ""))
    if trace is not None:
        tags["trace_id"] = trace[1]
    return tags


def _meaningless(error: ValidationError) -> ServiceError:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"] if str(part) not in ("bool", "[key]"))
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        there = ", ".join(sorted(Wishes.model_fields))
        message = f"cascade has no {name!r}; there are {there}."
    else:
        given = first["input"]
        message = f"cascade.{path}: {given!r:.80}: {first['msg']}."
    return ServiceError(400, message, code="invalid_value", param=f"cascade.{name}")


_NUMBER: dict[str, Any] = {"type": "number"}

HEADERS: list[dict[str, Any]] = [
    *(
        {
            "name": f"X-Cascade-{name}",
            "in": "header",
            "required": False,
            "description": f"As `cascade.{field}` in the body.",
            "schema": schema,
        }
        for name, field, schema in (
            ("Price-Of-Error", "price_of_error", _NUMBER | {"exclusiveMinimum": 0}),
            ("Max-Harm", "max_harm", _NUMBER | {"exclusiveMinimum": 0, "exclusiveMaximum": 1}),
            ("Escalation-Budget", "escalation_budget", _NUMBER | {"minimum": 0, "maximum": 1}),
            ("Deadline", "deadline", _NUMBER | {"exclusiveMinimum": 0}),
            ("Local-Only", "local_only", {"enum": ["true", "false", "answer", "abstain"]}),
            ("Tags", "tags", {"type": "string", "examples": ["user=ada,team=x"]}),
            ("Show", "show", {"enum": ["verified", "final"]}),
        )
    ),
    {
        "name": "X-Request-Id",
        "in": "header",
        "required": False,
        "description": "Comes back with the answer; the tag `request_id` in the ledger.",
        "schema": {"type": "string", "pattern": f"^{_REQUEST_ID.pattern}$"},
    },
    {
        "name": "traceparent",
        "in": "header",
        "required": False,
        "description": "W3C trace context; its trace id is the tag `trace_id` in the ledger.",
        "schema": {"type": "string"},
    },
]
"""What OpenAPI says of them."""
