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

OURS: Mapping[str, str] = {
    **dict.fromkeys(
        ("model", "model_name", "messages", "input", "prompt", "stream", "stream_options"),
        "it is said in its own place of the request.",
    ),
    **dict.fromkeys(
        ("base_url", "api_base", "url", "host", "endpoint", "api_key", "api_version",
         "organization", "project", "deployment"),
        "whom a tier asks, and as whom, is in the configuration of the service.",
    ),
    **dict.fromkeys(
        ("headers", "extra_headers", "default_headers", "extra_query", "default_query",
         "extra_body", "http_client", "http_async_client", "model_kwargs", "client_options",
         "callbacks", "config", "cache", "cached_content", "options"),
        "it belongs to the clients of providers, and these are the service's.",
    ),
    **dict.fromkeys(
        ("max_completion_tokens", "max_output_tokens", "max_new_tokens", "num_predict",
         "n_predict"),
        "give the limit of this protocol.",
    ),
    **dict.fromkeys(("n", "best_of"), "give `n` to /v1/chat/completions."),
    "tool_risks": "which calls are risky is in the configuration of the service.",
}  # fmt: skip
"""What goes to no tier as a parameter: it would change who is asked, what, or how much is paid for
behind the budget, the ledger and the border. Name → why."""

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
    for reasons in (REFUSED, OURS):
        for name in sorted(given & reasons.keys()):
            raise unsupported(name, reasons[name])
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
