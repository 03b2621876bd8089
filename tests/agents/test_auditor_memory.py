"""What a process learned from audits is known to the next one."""

from __future__ import annotations

from pathlib import Path

from cascade import Cascade, Price, Tier
from cascade.ledger.store import open_store
from cascade.testing import ScriptedModel

PRICE = Price(input=1, output=1)
WORDY = "a much longer answer " * 20


def made(path: Path, large: str = "large") -> Cascade:
    """A cascade whose large model writes far more than the draft."""
    return Cascade(
        Tier(ScriptedModel("short", logprobs=0.95), price=PRICE),
        Tier(ScriptedModel(WORDY, name=large), price=PRICE),
        ledger=open_store(f"sqlite:///{path}/ledger.db"),
        audit_rate=1.0,
    )


async def ask(cascade: Cascade, n: int) -> float:
    """What the last of n accepted drafts was said to spare, audits done after each."""
    for number in range(n):
        result = await cascade.ainvoke(f"question {number}")
        await cascade.audits_done()
    await cascade.options["ledger"].aclose()
    baseline = result.ledger.baseline_usd
    assert baseline is not None
    return float(baseline)


async def test_a_new_process_knows_how_long_the_large_models_answers_are(tmp_path: Path) -> None:
    first = await ask(made(tmp_path), 5)
    again = made(tmp_path)
    await ask(again, 1)  # the ledger is read after the first reply
    learned = await ask(again, 1)
    fresh = await ask(made(tmp_path / ".." / tmp_path.name, large="another"), 1)
    assert learned > 5 * fresh
    assert abs(learned / first - 1) < 0.5
