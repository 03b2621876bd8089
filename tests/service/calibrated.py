"""Calibrations that accept every draft, or none, for the cascade of `gateway.configured`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cascade.agents import Task
from cascade.confidence.calibration import Calibration, ModelIdentity, Quality, Stage
from cascade.confidence.calibrators import Constant
from cascade.setup import task_hash
from cascade.tiers import Tier
from tests.servers import replies
from tests.servers.fake import FakeServer


class Upstream(FakeServer):
    """Answers with log-probs, so that there is something to be calibrated."""

    async def _openai(self, request: Any) -> Any:
        return await self._answer(request, _sure)


def _sure(body: Mapping[str, Any]) -> replies.Reply:
    told = [{"token": "Paris", "logprob": -0.1, "top_logprobs": []}]
    return replies.openai_reply(logprobs=told)


def write(path: Path, confidence: float, small: str = "openai:small") -> None:
    """A calibration that gives every draft this confidence."""
    tier = Tier("openai:small", api_key="-", base_url="http://127.0.0.1:1/v1").open("small")
    stage = Stage(signals=("logprobs",), columns=("raw",), calibrator=Constant(value=confidence))
    quality = Quality(
        n=300, accuracy_small=0.5, accuracy_large=None, ece=0, ece_raw=0, brier=0, brier_raw=0,
        auroc=0.5, auroc_gain=None,
    )  # fmt: skip
    Calibration(
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        library_version="0",
        small=ModelIdentity(name=small),
        large=None,
        task_hash=task_hash(Task(), tier),
        system_hash=None,
        labels="references",
        stages=(stage,),
        quality=quality,
    ).save(path)
