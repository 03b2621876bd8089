"""`cascade calibration`: versions for all replicas of a service; here none of them runs."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from cascade.cli import app
from tests.ledger.store.conftest import postgres_server, postgres_url
from tests.service import calibrated

__all__ = ["postgres_server", "postgres_url"]

RUN = CliRunner()


def ran(*arguments: str) -> tuple[int, str]:
    result = RUN.invoke(app, ["calibration", *arguments])
    return result.exit_code, result.output


def test_versions_are_pushed_shown_and_rolled_back(postgres_url: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    for confidence in (0.9, 0.1):
        calibrated.write(file, confidence)
        note = f"accepts at {confidence}"
        code, said = ran("push", postgres_url, "support", str(file), "--note", note)
        assert code == 0, said
    assert "version 2 is in use" in said
    assert ran("rollback", postgres_url, "support")[0] == 0
    code, said = ran("status", postgres_url, "--json")
    [one] = json.loads(said)
    assert (code, one["cascade"], one["version"], one["note"]) == (
        0,
        "support",
        1,
        "accepts at 0.9",
    )
    assert one["versions"] == [1, 2]
    assert "support  version 1 (accepts at 0.9) since" in ran("status", postgres_url)[1]


def test_what_cannot_be_rolled_out_is_said_and_leaves_with_an_error(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    calibrated.write(file, 0.9)
    code, said = ran("push", f"sqlite:///{tmp_path}/ledger.db", "support", str(file))
    assert (code, "PostgreSQL" in said) == (2, True), said
    file.write_text("{}")
    code, said = ran("push", "postgresql://x@127.0.0.1:1/x", "support", str(file))
    assert (code, "no calibration of this version" in said) == (2, True), said


def test_a_cascade_that_the_configuration_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    config, file = tmp_path / "cascade.yaml", tmp_path / "calibration.json"
    config.write_text(
        "ledger: postgresql://x@127.0.0.1:1/x\n"
        "cascades: {support: {tiers: [{model: 'ollama:small'}]}}\n",
        encoding="utf-8",
    )
    calibrated.write(file, 0.9)
    for arguments in (("push", str(config), "nobody", str(file)), ("rollback", str(config), "no")):
        code, said = ran(*arguments)
        assert (code, "cascade.yaml has support" in said) == (2, True), said
