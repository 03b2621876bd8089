"""Which parameters of a request go where: to the run, to the tiers, or nowhere, with an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade.api import Cascade
from cascade.service.faults import ServiceError

REFUSED: Mapping[str, str] = {
    "functions": "deprecated: give `tools`.",
    "function_call": "deprecated: give `tool_choice`.",
    "audio": "answers are text.",
    "strict": "belongs into a tool or a schema.",
    "timeout": "say it as `cascade.deadline`.",
}
"""Parameters that would be lost → why, and the way out."""

OPENAI_ONLY = frozenset(
    {
        "logit_bias",
        "modalities",
        "parallel_tool_calls",
        "prediction",
        "reasoning_effort",
        "verbosity",
        "web_search_options",
    }
)
"""They change answers, and Ollama ignores them without a word."""

LABELLING = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "user"})
"""They change no answer, and differ from request to request: they go beside the task."""

OLLAMA_ONLY = frozenset(
    {
        "keep_alive",
        "think",
        "truncate",
        "shift",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_thread",
        "main_gpu",
        "low_vram",
        "use_mmap",
    }
)
"""Only an Ollama server knows what they mean."""


def check_parameters(settings: Mapping[str, Any], cascade: Cascade) -> None:
    """Refuse what a tier would ignore, or could not understand.

    Raises:
        ServiceError: 400, naming the parameter and the way out.
    """
    given = {name for name, value in settings.items() if value is not None}
    for name in sorted(given & REFUSED.keys()):
        raise unsupported(name, REFUSED[name])
    for name in sorted(given & (OPENAI_ONLY | OLLAMA_ONLY)):
        for tier in cascade.tiers:
            is_ollama = tier.model.provider == "ollama"
            if is_ollama == (name in OPENAI_ONLY):
                raise unsupported(
                    name,
                    f"the tier {tier.name!r} ({tier.model.name}) of this model has no such "
                    "parameter. Leave it out, or have it set in the options of the tier that has.",
                )


def unsupported(name: str, why: str) -> ServiceError:
    """A parameter that cannot be obeyed."""
    return ServiceError(
        400, f"{name}: not supported: {why}", code="unsupported_parameter", param=name
    )
