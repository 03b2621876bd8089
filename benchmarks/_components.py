"""Where a driver of `overhead` spends its CPU, by component."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _drivers import DRIVERS as PLAIN
from _drivers_around import AROUND

DRIVERS = {**PLAIN, **AROUND}
PARTS = {
    "agents/": "cascade: agents",
    "cascade/graph": "cascade: agents",
    "cascade/models": "cascade: models",
    "cascade/ledger": "cascade: ledger",
    "cascade/walking": "cascade: walk",
    "cascade/": "cascade: the rest",
    "langgraph": "LangGraph",
    "langchain_core": "LangChain core, LangSmith",
    "langsmith": "LangChain core, LangSmith",
    "openai/": "openai client",
    "httpx2": "httpx2",
    "aiohttp": "aiohttp",
    "multidict": "aiohttp",
    "yarl": "aiohttp",
    "pydantic": "pydantic",
    "asyncio": "asyncio",
}
"""The first that is in a file's path."""

LEAST = 0.01
"""A smaller share is not shown."""


def component(file: str) -> str:
    """To what a file belongs."""
    path = file.partition("site-packages/")[2] or file.partition("/benchmarks/")[0]
    return next((name for part, name in PARTS.items() if part in path), "standard library")


async def _run(name: str, port: int, requests: int, profile: cProfile.Profile) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with DRIVERS[name](f"http://127.0.0.1:{port}/v1", Path(folder)) as ask:
            for number in range(50):
                await ask(f"Warm {number}?")
            profile.enable()
            for number in range(requests):
                await ask(f"Question {number}: which city is it?")
            profile.disable()


def show(name: str, port: int, requests: int) -> None:
    """Profile a driver, one question at a time, and draw what it found.

    The profiler makes all of it slower, calls of Python the most: read the shares.
    """
    profile = cProfile.Profile(time.thread_time)
    asyncio.run(_run(name, port, requests, profile))
    found: Any = pstats.Stats(profile)
    spent: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in found.stats.items():
        if not file.startswith("~"):
            spent[component(file)] += own
            continue
        for (caller, _, _), figures in callers.items():  # what is built in belongs to who calls it
            spent[component(caller)] += figures[2]
    total = sum(spent.values())
    print(f"{name}: {found.total_calls / requests:,.0f} calls of functions per request")
    for part, seconds in spent.most_common():
        if seconds >= LEAST * total:
            bar = "█" * round(60 * seconds / total)
            share = 100 * seconds / total
            print(f"  {part:<27}{1000 * seconds / requests:6.3f} ms {share:5.1f} %  {bar}")
