"""Pictures of the page at two widths, light and dark, and how long its first view takes.

    python scripts/screenshots.py FOLDER [--entries 100000]

A service with a made-up ledger of so many entries, in a real browser. It needs the packages of the
tests, and Chromium.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cascade import Decision, LedgerEntry  # noqa: E402
from cascade.ledger.store import open_store  # noqa: E402
from tests.acceptance import commands  # noqa: E402
from tests.acceptance.test_22_gateway import serve  # noqa: E402
from tests.acceptance.upstream import Upstream  # noqa: E402
from tests.browser.chromium import browser, log_in  # noqa: E402

SCREENS: dict[str, Any] = {
    "desk": {"width": 1_400, "height": 900},
    "phone": {"width": 390, "height": 844},
}
DRAFT, LARGE = Decimal("0.0001"), Decimal("0.002")
CHUNK = 2_000


def run_entries(number: int, runs: int) -> list[LedgerEntry]:
    """The entries of one made-up run of the last month, four or five of them."""
    chance = random.Random(number)
    at = datetime.now(UTC) - timedelta(days=30 * (1 - number / runs))
    confidence = chance.random() ** 0.5
    accepts, audited = confidence >= 0.6, chance.random() < 0.05
    decision = Decision(
        action="accept" if accepts else "escalate",
        reason=f"confidence {confidence:.2f}",
        threshold=0.6,
        confidence=confidence,
        audit_rate=0.05,
    )
    common = {"run_id": f"run-{number}", "at": at}
    call = {"latency_ms": 100 + 900 * chance.random(), "input_tokens": 200, "output_tokens": 60}
    small = {"tier": "small", "model": "ollama:qwen2.5:3b", **call}
    large = {"tier": "large", "model": "openai:gpt-5.1", **call, "cost_usd": LARGE}
    made = [
        LedgerEntry(node="draft", **small, cost_usd=DRAFT, saved_usd=-DRAFT, **common),
        LedgerEntry(node="self_check", tier="small", cost_usd=Decimal(0), **common),
    ]
    earned = {"baseline_usd": LARGE, "saved_usd": LARGE, "basis": "estimated"} if accepts else {}
    spent = {"cost_usd": Decimal(0), **earned}
    made.append(LedgerEntry(node="verify", tier="small", decision=decision, **spent, **common))
    if not accepts:
        made.append(LedgerEntry(node="expert", **large, saved_usd=Decimal(0), **common))
    elif audited:
        worse = 1.0 if chance.random() < 0.03 else 0.0
        made.append(LedgerEntry(node="audit", **large, saved_usd=-LARGE, loss=worse, **common))
    return made


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entries", type=int, default=100_000)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    runs, written = given.entries // 3, 0
    with tempfile.TemporaryDirectory() as place, Upstream() as upstream:
        with open_store(f"sqlite:///{place}/ledger.db") as store:
            for number in range(runs):
                team, entries = f"team-{number % 5}", run_entries(number, runs)
                store.append(entries, {"cascade": "support", "team": team})
                written += len(entries)
        served = serve(Path(place), upstream)
        admin = commands.cascade("keys", "create", served.config, "boss", "--admin", "--json").json
        with browser() as opened:
            for scheme in ("light", "dark"):
                for name, screen in SCREENS.items():
                    context = opened.new_context(viewport=screen, color_scheme=scheme)
                    page, began = context.new_page(), time.perf_counter()
                    log_in(page, served.url, admin["secret"])
                    took_s = time.perf_counter() - began
                    target = given.folder / f"page-{name}-{scheme}.png"
                    page.screenshot(path=target)
                    print(f"{target.name}: first view {took_s:.2f} s, {written:,} entries")
                    context.close()
        served.process.terminate()
        served.process.communicate(timeout=60)


if __name__ == "__main__":
    main()
