"""What `--live` means in every example: your models in place of those that run offline.

    small, large = yours(small, large)

Where another program runs the example (uvicorn, say), the environment variables CASCADE_SMALL and
CASCADE_LARGE name them. Copied without this file, an example needs two tiers in that place, such as
`Tier("ollama:qwen2.5:3b", price=Price(per_hour=0.05))` and `Tier("openai:gpt-5.1")`.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from cascade import Price, Tier

ON_THIS_MACHINE = ("ollama:", "llamacpp:")


def yours(small: Tier, large: Tier) -> tuple[Tier, Tier]:
    """Two tiers: those given, or live the same with models of yours."""
    said = _said()
    if not said.live:
        return small, large

    def live(tier: Tier, model: str, price: str | None) -> Tier:
        if price is not None:
            per_input, per_output = price.split(",")
            return replace(tier, model=model, price=Price(input=per_input, output=per_output))
        here = model.startswith(ON_THIS_MACHINE)  # a hosted model has its list price
        return replace(tier, model=model, price=Price(per_hour=said.per_hour) if here else None)

    return live(small, said.small, said.small_price), live(large, said.large, said.large_price)


def _said() -> argparse.Namespace:
    main = sys.modules["__main__"]
    small, large = (os.environ.get(name) for name in ("CASCADE_SMALL", "CASCADE_LARGE"))
    parser = argparse.ArgumentParser(description=(main.__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--live", action="store_true", help="ask the models below")
    add("--small", default=small or "ollama:qwen2.5:3b", help="default: %(default)s")
    add("--large", default=large or "openai:gpt-5.1", help="default: %(default)s")
    add("--per-hour", type=float, default=0.05, help="dollars per hour in which it computes here")
    add("--small-price", metavar="IN,OUT", help="dollars per 1M tokens, instead of those hours")
    add("--large-price", metavar="IN,OUT", help="the same, instead of its list price")
    if Path(getattr(main, "__file__", None) or "").resolve().parent == Path(__file__).parent:
        return parser.parse_args()
    return parser.parse_args(["--live"] if large else [])
