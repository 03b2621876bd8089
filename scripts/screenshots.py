"""Pictures of the page at two widths, light and dark, and how long its first view takes.

    python scripts/screenshots.py FOLDER [--entries 100000]

A service with a made-up ledger of so many entries, in a real browser. It needs the packages of the
tests, and Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report_speed import fill  # noqa: E402

from tests.acceptance import commands  # noqa: E402
from tests.acceptance.test_22_gateway import serve  # noqa: E402
from tests.acceptance.upstream import Upstream  # noqa: E402
from tests.browser.chromium import browser, log_in  # noqa: E402

SCREENS: dict[str, Any] = {
    "desk": {"width": 1_400, "height": 900},
    "phone": {"width": 390, "height": 844},
}


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entries", type=int, default=100_000)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, Upstream() as upstream:
        asyncio.run(fill(f"sqlite:///{place}/ledger.db", given.entries))
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
                    print(f"{target.name}: first view {took_s:.2f} s, {given.entries:,} entries")
                    context.close()
        served.process.terminate()
        served.process.communicate(timeout=60)


if __name__ == "__main__":
    main()
