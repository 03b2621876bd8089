"""Follows one question, and the ledger entries it leaves, through the functions of the package.

`python scripts/traced.py` prints every function of the package in the order in which they are
called, by file and name. tests/house/test_architecture.py holds the paths of docs/architecture.md
against it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import floors
from cascade import Cascade, Price, Tier
from cascade.ledger.store import open_store
from cascade.report import make_report
from cascade.testing import ScriptedModel

WITHOUT_A_NAME = ("<lambda>", "<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>")


@contextmanager
def calls() -> Iterator[list[str]]:
    """A list that receives each function of the package that is called, in every new thread too.

    A coroutine is called each time it goes on. What follows itself is listed once.
    """
    listed: list[str] = []
    places: dict[str, str | None] = {}

    def hear(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code.co_qualname.endswith(WITHOUT_A_NAME):
            return
        if code.co_filename not in places:
            places[code.co_filename] = _place(code.co_filename)
        place = places[code.co_filename]
        called = f"{place}:{code.co_qualname}"
        if place is not None and listed[-1:] != [called]:
            listed.append(called)

    before = sys.getprofile()
    threading.setprofile(hear)
    sys.setprofile(hear)
    try:
        yield listed
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


def escalated() -> list[str]:
    """What is called for a question whose draft is rejected, and then for a report of its ledger.

    It is the second question of a cascade of two tiers with prices and a SQLite ledger, so that
    nothing is set up on the way. The models are fakes.
    """
    with TemporaryDirectory() as folder, calls() as listed:
        asyncio.run(_ask(f"sqlite:///{folder}/ledger.db", listed))
    return listed


async def _ask(ledger: str, listed: list[str]) -> None:
    small = ScriptedModel("Sydney.", name="small", logprobs=0.4)
    tiers = [
        Tier(small, price=Price(input=0.1, output=0.4)),
        Tier(ScriptedModel("Canberra.", name="large"), price=Price(input=2, output=8)),
    ]
    async with open_store(ledger) as store, Cascade(tiers=tiers, ledger=store) as cascade:
        await cascade.ainvoke("What is the capital of Austria?")
        await store.flush()
        listed.clear()
        result = await cascade.ainvoke("What is the capital of Australia?")
        assert result.escalated
        await store.flush()
        await make_report(store)


def _place(name: str) -> str | None:
    """A file of the package by its path in the repository; None of any other file."""
    path = Path(name).resolve()
    if not path.is_relative_to(floors.ROOT):
        return None
    place = path.relative_to(floors.ROOT).as_posix()
    return place if place.startswith(("cascade/", "agents/")) else None


if __name__ == "__main__":
    print("\n".join(escalated()))
