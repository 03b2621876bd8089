"""The list of what the package is made of, and what is said where nobody can be asked about it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import floors
import sbom

FAKE = "GHSA-fake-fake-fake"


class Database(BaseHTTPRequestHandler):
    """Knows one thing that is wrong, of `httpx`."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known = {"vulns": [{"id": FAKE, "modified": "2026-01-01T00:00:00Z"}]}
        names = [query["package"]["name"] for query in asked["queries"]]
        self._say({"results": [known if name == "httpx" else {} for name in names]})

    def do_GET(self) -> None:
        package = {"ecosystem": "PyPI", "name": "httpx"}
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}]
        self._say(
            {
                "id": FAKE,
                "modified": "2026-01-01T00:00:00Z",
                "published": "2026-01-01T00:00:00Z",
                "summary": "it is only a test",
                "affected": [{"package": package, "ranges": ranges}],
            }
        )

    def _say(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the server's name
        """Say nothing."""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Database)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(30)


def audited(into: Path, service: str) -> subprocess.CompletedProcess[str]:
    if not (floors.ROOT / "uv.lock").exists():
        pytest.skip("there is no uv.lock: it was set up by something else than scripts/setup.sh")
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(
        ["scripts/audit.sh"],
        cwd=floors.ROOT,
        env={**kept, "AUDIT_INTO": str(into), "AUDIT_SERVICE": service, "AUDIT_SECONDS": "60"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """An audit where no database can be asked."""
    into = tmp_path_factory.mktemp("dist")
    return into, audited(into, "http://127.0.0.1:9")


def test_where_nobody_can_be_asked_it_says_so_and_does_not_pretend(
    alone: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    into, done = alone
    assert done.returncode == 0, done.stderr
    assert "NOT DONE" in done.stdout
    assert "0 problems" not in done.stdout
    assert sorted(path.name for path in into.iterdir()) == ["sbom.cdx.json"]


def test_the_sbom_is_cyclonedx_and_lists_every_direct_dependency(
    alone: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    # Seconds of imports, which every process that tests would take.
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    text = (alone[0] / "sbom.cdx.json").read_text(encoding="utf-8")
    bill = json.loads(text)
    # The check of an address takes a third of a second, and there are thousands of them.
    few = [dict(part) for part in bill["components"]]
    for number, part in enumerate(few):
        files = part.pop("externalReferences", [])
        if files and number < 2:
            part["externalReferences"] = files[:1]
    checked = json.dumps({**bill, "components": few})
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(checked) is None
    assert bill["metadata"]["component"]["name"] == "agent-cascade"
    assert bill["metadata"]["component"]["version"] == sbom.version()
    listed = {part["name"].lower().replace("_", "-") for part in bill["components"]}
    missing = {name for name in direct() if name not in listed}
    assert not missing
    assert all(part["purl"].startswith("pkg:") for part in bill["components"])


def direct() -> set[str]:
    """The dependencies of the package and of its extras, as pyproject.toml names them."""
    text = (floors.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[\[<>=!~; ]", one)[0].lower().replace("_", "-") for one in wanted}
    return names - {"agent-cascade"}


def test_a_known_vulnerability_fails_and_is_named(tmp_path: Path, database: str) -> None:
    done = audited(tmp_path, database)
    assert done.returncode == 1, done.stderr
    assert FAKE in done.stdout
    assert "mended in 99.0" in done.stdout
    assert json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))["vulnerabilities"]


def test_nothing_wrong_is_a_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "audit.json"
    report: dict[str, Any] = {
        "vulnerabilities": [],
        "adverse_statuses": [],
        "summary": {"audited_packages": 3},
    }
    path.write_text(json.dumps(report), encoding="utf-8")
    assert sbom.main(["vulnerabilities", str(path)]) == 0
    report["adverse_statuses"] = [{"status": "deprecated"}]
    path.write_text(json.dumps(report), encoding="utf-8")
    assert sbom.main(["vulnerabilities", str(path)]) == 1
    assert "0 problems" in capsys.readouterr().out


def test_the_list_is_made_where_everything_is_checked_and_not_committed() -> None:
    assert "make audit" in (floors.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    ignored = (floors.ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "dist/" in ignored
