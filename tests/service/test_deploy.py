"""What stands in deploy/: linted by the tools of its kinds, and started where that can be."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from cascade.service.config import ServiceConfig

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
VARIABLES = {
    "LEDGER_URL": "sqlite:///ledger.db",
    "OLLAMA_URL": "http://127.0.0.1:11434",
    "OPENAI_API_KEY": "a-key-of-a-test",
}


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(cwd), **VARIABLES},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def copied() -> list[str]:
    """What the container file copies into its build stage."""
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    build = lines[: lines.index("FROM python:3.12-slim")]
    return [name for line in build if line.startswith("COPY") for name in line.split()[1:-1]]


@pytest.mark.parametrize(
    "command",
    [
        ("yamllint", "--strict", "--config-file", "deploy/.yamllint", "deploy"),
        ("kubernetes-validate", "--strict", "deploy/kubernetes.yaml"),
        ("hadolint", "deploy/Containerfile"),
    ],
    ids=lambda command: command[0],
)
def test_the_linter_of_its_kind_finds_nothing(command: tuple[str, ...]) -> None:
    ended = run(BIN / command[0], *command[1:])
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_systemd_finds_nothing_in_its_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    text = (DEPLOY / "cascade.service").read_text()
    unit = tmp_path / "cascade.service"
    unit.write_text(text.replace("/usr/local/lib/cascade/bin", str(BIN)))
    ended = run("systemd-analyze", "verify", unit)
    mine = [line for line in ended.stderr.splitlines() if "cascade.service" in line]
    assert mine == []


def test_the_configuration_is_one_that_can_run(tmp_path: Path) -> None:
    ended = run(BIN / "cascade", "serve", "--check", DEPLOY / "cascade.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "assistant" in ended.stdout
    assert VARIABLES["OPENAI_API_KEY"] not in ended.stdout


def test_the_container_is_built_from_all_that_its_wheel_needs(tmp_path: Path) -> None:
    for name in copied():
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, tmp_path / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, tmp_path / name)
    ended = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "cascade/agents/drafter.py" in names
    assert "cascade/service/page/static/page.html" in names


def test_nothing_that_is_copied_is_ignored() -> None:
    kept = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert {name.partition("/")[0] for name in [*copied(), "deploy/cascade.yaml"]} <= kept


def test_compose_gives_the_gateway_each_variable_that_its_configuration_names() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    config = (DEPLOY / "cascade.yaml").read_text()
    named = set(re.findall(r"\$\{(\w+)\}", config)) | set(re.findall(r"api_key_env: (\w+)", config))
    gateway = compose["services"]["gateway"]
    assert named == set(gateway["environment"])
    assert set(gateway["depends_on"]) == {"database", "ollama"}
    assert gateway["environment"]["OLLAMA_URL"] == "http://ollama:11434"


def test_kubernetes_probes_ask_for_paths_that_the_service_has(tmp_path: Path) -> None:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    container = next(documents)["spec"]["template"]["spec"]["containers"][0]
    probes = ("livenessProbe", "readinessProbe", "startupProbe")
    paths = {container[probe]["httpGet"]["path"] for probe in probes}
    program = (
        "from cascade.service import create_app\n"
        "from cascade.service.reading import read_settings\n"
        f"app = create_app(read_settings({str(DEPLOY / 'cascade.yaml')!r}).config)\n"
        "print(*app.openapi()['paths'])"
    )
    ended = run(sys.executable, "-c", program, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert paths == {"/healthz", "/readyz"}
    assert paths <= set(ended.stdout.split())


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("compose.yaml", r"stop_grace_period: (\d+)s"),
        ("cascade.service", r"TimeoutStopSec=(\d+)"),
        ("kubernetes.yaml", r"terminationGracePeriodSeconds: (\d+)"),
    ],
)
def test_who_stops_it_waits_for_running_requests(file: str, pattern: str) -> None:
    found = re.search(pattern, (DEPLOY / file).read_text())
    assert found is not None
    assert int(found[1]) > ServiceConfig.model_fields["shutdown_grace_s"].default
