"""`GET /v1/models`: what may be asked for, by the names of cascades."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from cascade.api import Cascade
from cascade.service.admission import Admit
from cascade.service.protocols.chat_wire import ErrorReply
from cascade.service.protocols.documented import LISTING, errors
from cascade.service.protocols.replying import json_response

router = APIRouter(tags=["OpenAI"])

_LISTING = errors(ErrorReply, *LISTING)


class TierShown(BaseModel):
    """One tier of a model."""

    name: str
    model: str
    local: bool = Field(description="Whether it is on this machine.")


class ModelShape(BaseModel):
    """What a model is made of."""

    tiers: list[TierShown]
    policy: str
    calibrated: bool
    mode: str


class Model(BaseModel):
    """A model that may be asked for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    cascade: ModelShape


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


@router.get("/v1/models", response_model=None, responses={200: {"model": ModelList}, **_LISTING})
async def list_models(admitted: Admit) -> Response:
    """List the models that this key may ask for."""
    service = admitted.service
    shown = [
        shape(name, service.model(name, admitted.key)) for name in service.models(admitted.key)
    ]
    return json_response({"object": "list", "data": shown})


@router.get(
    "/v1/models/{model:path}",
    response_model=None,
    responses={200: {"model": Model}, **errors(ErrorReply, 404, *LISTING)},
)
async def show_model(model: str, admitted: Admit) -> Response:
    """Show one model."""
    return json_response(shape(model, admitted.service.model(model, admitted.key)))


def shape(name: str, cascade: Cascade) -> dict[str, Any]:
    """A cascade in the form of OpenAI's models."""
    made = {
        "tiers": tiers_of(cascade),
        "policy": repr(cascade.policy),
        "calibrated": cascade.calibration is not None,
        "mode": cascade.mode,
    }
    return {"id": name, "object": "model", "created": 0, "owned_by": "cascade", "cascade": made}


def tiers_of(cascade: Cascade) -> list[dict[str, Any]]:
    """Its tiers, as a `TierShown` each."""
    return [
        {"name": tier.name, "model": tier.model.name, "local": tier.local} for tier in cascade.tiers
    ]
