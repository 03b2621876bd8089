"""Worlds in which something below a cascade fails: full disks, folders that cannot be written."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from cascade import Cascade, Price, Tier
from cascade.ledger.store import Store
from cascade.state import LedgerEntry
from cascade.testing import ScriptedModel

NOBODY = 65534
PRICE = Price(input=1, output=2)


def entry(run: str = "r", **fields: object) -> LedgerEntry:
    made = {"node": "draft", "cost_usd": Decimal("0.01"), **fields}
    return LedgerEntry(run_id=run, **made)  # type: ignore[arg-type]


def entries(n: int, first: int = 0) -> list[LedgerEntry]:
    return [entry(str(number)) for number in range(first, first + n)]


async def runs_of(store: Store) -> list[str]:
    return [each.run_id for each in await store.query()]


def asking(ledger: Store, **options: object) -> Cascade:
    """A cascade whose draft is accepted at once."""
    small = Tier(ScriptedModel("yes", logprobs=0.95), price=PRICE)
    large = Tier(ScriptedModel("yes, indeed"), price=PRICE)
    return Cascade(small, large, ledger=ledger, **options)  # type: ignore[arg-type]


async def until(true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.01)


@contextmanager
def small_disk(size: str = "2m") -> Iterator[Path]:
    """A disk of its own that is soon full."""
    with tempfile.TemporaryDirectory(prefix="cascade-disk-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be made here: {done.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def ballast(folder: Path) -> Iterator[None]:
    """Something that takes all the room that is left, and is gone again."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (4096, 512, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="cascade-folder-") as made:
        folder = Path(made)
        folder.chmod(0o777)
        yield folder


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Nobody may write in it; who is root is somebody else meanwhile."""
    root = os.geteuid() == 0
    folder.chmod(0o555)
    for path in folder.iterdir():
        path.chmod(0o444)
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o777)
        for path in folder.iterdir():
            path.chmod(0o666)
