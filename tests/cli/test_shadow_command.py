"""`cascade shadow`: readiness from a ledger, and a calibration that a cascade accepts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cascade import Cascade, Tier
from cascade.ledger.store import open_store
from tests.cli.conftest import Models, Run
from tests.oversight.shadowing import LARGE_PRICE, SMALL_PRICE, large, small, start


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """200 shadow runs of the app `a`, and a few of `b`."""
    url = f"sqlite:///{tmp_path_factory.mktemp('shadow')}/ledger.db"

    async def fill() -> None:
        async with open_store(url) as store:
            for app, n in (("a", 200), ("b", 3)):
                async with start(ledger=store, tags={"app": app}) as cascade:
                    await cascade.abatch([f"question {i}" for i in range(n)])

    asyncio.run(fill())
    return url


def test_the_verdict_comes_first_and_the_figures_after_it(run: Run, ledger: str) -> None:
    output = run("shadow", ledger, "--max-loss", 0.2, "--max-harm", 0.3).output
    assert output.startswith(("ready:", "too early:", "not worth it:"))
    assert "203: 203 drafts compared" in output
    assert "quality loss" in output
    assert "certificate" in output


def test_json_is_one_document(run: Run, ledger: str) -> None:
    document = json.loads(run("shadow", ledger, "--tag", "app=b", "--json").stdout)
    assert document["requests"] == 3
    assert document["verdict"] == "too early"
    assert document["more"] == 27


def test_the_calibration_that_is_written_is_accepted_and_used(
    run: Run, ledger: str, models: Models, tmp_path: Path
) -> None:
    models["scripted:s"], models["scripted:l"] = small(), large()
    path = tmp_path / "calibration.json"
    pair = ("--small", "scripted:s", "--large", "scripted:l")
    result = run("shadow", ledger, *pair, "--tag", "app=a", "--out", path)
    assert "200: 200 drafts compared" in result.output
    cascade = Cascade(
        Tier("scripted:s", price=SMALL_PRICE),
        Tier("scripted:l", price=LARGE_PRICE),
        calibrator=path,
    )
    assert cascade.invoke("question 1").calibrated
    nobody = run("shadow", ledger, *pair, "--tag", "app=b", "--out", tmp_path / "no.json", code=1)
    assert "too few rows" in nobody.output
    assert not (tmp_path / "no.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--small", "scripted:s"), "both --small and --large"),
        (("--out", "calibration.json"), "--out needs --small and --large"),
        (("--max-loss", "2"), "max_loss=2.0"),
        (("--tag", "app"), "KEY=VALUE"),
        (("--days", "1", "--since", "2026-01-01"), "not both"),
        (
            ("--small", "scripted:s", "--large", "scripted:l", "--out", "/no/such/place.json"),
            "a folder that exists",
        ),
    ],
)
def test_wrong_usage_is_said_before_anything_is_read(
    run: Run, ledger: str, options: tuple[str, ...], words: str
) -> None:
    assert words in run("shadow", ledger, *options, code=2).output


def test_a_ledger_that_is_not_there_is_not_made(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "no.db"
    assert "there is no file" in run("shadow", f"sqlite:///{path}", code=2).output
    assert not path.exists()
