"""Reads what `scripts/audit.sh` writes: the list of components, and what is known to be wrong.

`sbom.py components dist/sbom.cdx.json`, `sbom.py vulnerabilities dist/audit.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def version() -> str:
    """Of this package, as its file says it."""
    text = (ROOT / "cascade" / "_version.py").read_text(encoding="utf-8")
    return text.split('"')[1]


def complete(path: Path) -> int:
    """Say the version of this package, which uv does not read, and count the components."""
    bill: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    bill["metadata"]["component"]["version"] = version()
    path.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    print(f"sbom: {len(bill['components'])} components: {path}")
    return 0


def judge(path: Path) -> int:
    """Say what is known; 1 where it is something."""
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for found in report["vulnerabilities"]:
        package, mended = found["dependency"], ", ".join(found["fix_versions"]) or "none yet"
        print(
            f"audit: {package['name']} {package['version']}: {found['display_id']}: "
            f"{found['summary']} (mended in {mended})"
        )
    for found in report["adverse_statuses"]:
        print(f"audit: {json.dumps(found)}")
    wrong = len(report["vulnerabilities"]) + len(report["adverse_statuses"])
    print(f"audit: {report['summary']['audited_packages']} packages, {wrong} problems: {path}")
    return 1 if wrong else 0


def main(arguments: list[str]) -> int:
    """Run one of both."""
    what, path = arguments
    return {"components": complete, "vulnerabilities": judge}[what](Path(path))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
