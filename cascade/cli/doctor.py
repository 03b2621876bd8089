"""`cascade doctor`: what can be reached from here, and what to do about the rest."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from typer import Option

from cascade.cli.options import EMBEDDED, spread
from cascade.cli.program import busy, give
from cascade.errors import CascadeError

KEYS = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google_genai": "GOOGLE_API_KEY",
    "mistralai": "MISTRAL_API_KEY",
}
"""Environment variables with the keys of hosted providers."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `ok`, `warning` (works, with a limit) or `missing`."""

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    to_do: str = ""

    def __str__(self) -> str:
        then = f" → {self.to_do}" if self.to_do else ""
        mark = {"ok": "✓", "warning": "!", "missing": "✗"}[self.status]
        return f"{mark} {self.name}: {self.found}{then}"


@spread
def doctor(
    model: Annotated[list[str] | None, Option(help="Model to ask one word; repeatable.")] = None,
) -> None:
    """Look for models, keys, prices and log-probs. Fails when a named model does not work."""
    with busy("looking around …"):
        checks = asyncio.run(_look(model or []))
    give(checks, "\n".join(map(str, checks)))
    for check in checks:
        if check.name in (model or ()) and check.status == "missing":
            raise CascadeError(f"{check.name} {check.found}: {check.to_do}")


async def _look(models: list[str]) -> list[Check]:
    found = [*await _check_model(EMBEDDED), *await _check_ollama(), *_check_keys()]
    for spec in models:
        if spec not in {check.name for check in found}:
            found += await _check_model(spec)
    return found


async def _check_model(spec: str) -> list[Check]:
    from langchain_core.messages import HumanMessage  # noqa: PLC0415 - heavy, keeps --help fast

    from cascade.ledger.prices import has_price  # noqa: PLC0415
    from cascade.models import Request  # noqa: PLC0415
    from cascade.tiers import Tier, open_tier  # noqa: PLC0415

    asked = Request((HumanMessage("Say yes."),), max_tokens=1, timeout_s=60)
    try:
        tier = open_tier(Tier(spec, timeout_s=60))
        async with aclosing(tier.model) as model:
            if model.returns_logprobs:
                asked = replace(asked, logprobs=True, top_logprobs=2)
            answer = await model.complete(asked)
    except CascadeError as error:
        return [Check(spec, "missing", "does not answer", str(error))]
    took = f"answers in {answer.latency_ms / 1000:.2f} s"
    limit = "as a small model it checks itself by one more call; log-probs would be free"
    found = Check(spec, "warning", f"{took}, without log-probs", limit)
    if answer.logprobs:
        found = Check(spec, "ok", f"{took}, with log-probs")
    how = "--prices FILE (docs/prices.md); in Python Tier(…, price=Price(…))"
    price = Check(f"price of {spec}", "warning", "not set", how)
    if has_price(tier.pricing, busy_ms=1.0):
        price = Check(price.name, "ok", tier.pricing.source)
    return [found, price]


async def _check_ollama() -> list[Check]:
    from httpx import AsyncClient, HTTPError  # noqa: PLC0415 - heavy, keeps --help fast

    from cascade.models.failures import without_secrets  # noqa: PLC0415
    from cascade.models.ollama import server_address  # noqa: PLC0415

    to_do = "start it with `ollama serve`, or set OLLAMA_HOST; see ollama.com for installing"
    host = "OLLAMA_HOST"
    try:
        host = without_secrets(address := server_address(None))
        async with AsyncClient(timeout=5.0) as client:
            listed = (await client.get(f"{address}/api/tags")).raise_for_status().json()["models"]
        names = [each["model"] for each in sorted(listed, key=lambda each: each.get("size") or 0)]
    except (HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        return [Check("ollama", "missing", f"no Ollama answers at {host} ({said})", to_do)]
    if not names:
        return [Check("ollama", "warning", f"no models at {host}", "ollama pull qwen2.5:3b")]
    server = Check("ollama", "ok", f"at {host}: {', '.join(names)}")
    return [server, *await _check_model(f"ollama:{names[0]}")]


def _check_keys() -> Iterator[Check]:
    """Keys of hosted providers, whose values are never shown, and the packages that bring them."""
    for provider, variable in KEYS.items():
        package = f"langchain_{provider}"
        if not os.environ.get(variable):
            yield Check(provider, "missing", f"{variable} is not set", f"export {variable}=…")
        elif provider != "openai" and importlib.util.find_spec(package) is None:
            how = f"pip install {package.replace('_', '-')}"
            yield Check(provider, "warning", f"{variable} is set, no adapter", how)
        else:
            yield Check(provider, "ok", f"{variable} is set")
