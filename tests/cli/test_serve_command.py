"""`cascade serve` and `cascade keys`, as commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from cascade.cli import app, serve

CONFIG = """\
ledger: sqlite:///ledger.db
cascades:
  support:
    tiers:
      - model: ollama:qwen2.5:3b
      - model: openai:gpt-5.1
        api_key_env: PROVIDER_KEY
"""
MAIN = "from cascade.cli import main; main()"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROVIDER_KEY", "sk-provider")
    path = tmp_path / "cascade.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_check_says_what_would_run_and_makes_nothing(config: Path) -> None:
    shown = run("serve", config, "--check")
    assert "listens on 127.0.0.1:8080, asks for keys" in shown.stdout
    assert "small: ollama:qwen2.5:3b (this machine)" in shown.stdout
    assert "large: openai:gpt-5.1 (elsewhere)" in shown.stdout
    assert "remark: what small costs is unknown" in shown.stdout
    assert "sk-provider" not in shown.output
    assert [path.name for path in config.parent.iterdir()] == ["cascade.yaml"]


def test_check_of_a_wrong_configuration_ends_with_2_and_its_line(config: Path) -> None:
    config.write_text(CONFIG + "    mode: alive\n", encoding="utf-8")
    assert "cascade.yaml:8: cascades.support.mode" in run("serve", config, "--check", code=2).output


def test_check_of_what_cannot_be_built_ends_with_2(config: Path) -> None:
    config.write_text(CONFIG + "    max_harm: 0.1\n", encoding="utf-8")
    shown = run("serve", config, "--check", code=2)
    assert "cascades.support: max_harm=0.1 needs calibrator" in shown.output


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////no/such/folder/ledger.db", "there is no folder /no/such/folder"),
        ("postgresql://me:hunter2@127.0.0.1:1/books", "the ledger's database"),
    ],
)
def test_check_of_a_ledger_out_of_reach_ends_with_1(config: Path, url: str, words: str) -> None:
    config.write_text(CONFIG.replace("sqlite:///ledger.db", url), encoding="utf-8")
    shown = run("serve", config, "--check", code=1)
    assert words in shown.output
    assert "hunter2" not in shown.output


def test_no_auth_is_for_loopback_alone(config: Path) -> None:
    shown = run("serve", config, "--check", "--no-auth", "--port", 0)
    assert "127.0.0.1:0, asks for no key" in shown.stdout
    refused = run("serve", config, "--check", "--no-auth", "--host", "0.0.0.0", code=2)
    assert "loopback only, not on 0.0.0.0" in refused.output


def test_without_the_extra_it_says_which(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda _: None)
    assert 'pip install "agent-cascade[service]"' in run("serve", config, code=2).output


def test_a_key_is_shown_once_and_listed_without_its_secret(config: Path) -> None:
    options = ("--day-usd", "$1.50", "--per-minute", 60, "--tag", "team=search")
    made = run("keys", "create", config, "search", "--model", "support", *options)
    secret = made.stdout.strip()
    assert secret.startswith("csk_")
    assert "shown only now" in made.stderr
    listed = run("keys", "list", config).output
    assert "search  valid  support  60/min  $1.50/day  team=search" in listed
    [key] = json.loads(run("keys", "list", config, "--json").stdout)
    assert (key["day_usd"], key["admin"], key["tags"]) == ("1.50", False, {"team": "search"})
    assert secret not in listed + str(key)
    assert "digest" not in key


def test_a_key_is_revoked_by_name_or_id_once(config: Path) -> None:
    for name in ("twin", "twin", "single"):
        run("keys", "create", config, name, "--admin")
    assert "(single) is revoked" in run("keys", "revoke", config, "single").output
    assert "it is revoked already" in run("keys", "revoke", config, "single", code=2).output
    assert "there is no such key" in run("keys", "revoke", config, "nobody", code=2).output
    both = run("keys", "revoke", config, "twin", code=2)
    first = both.output.rpartition("one of ")[2].partition(",")[0]
    assert "(twin) is revoked" in run("keys", "revoke", config, first).output
    assert run("keys", "list", config).output.count("revoked 20") == 2


def test_the_ledgers_address_is_as_good_as_the_configuration(config: Path) -> None:
    run("keys", "create", config, "search")
    address = f"sqlite:///{config.parent}/ledger.db"
    assert "search" in run("keys", "list", address).output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "nobody"), "there is no such model; there are support"),
        (("--day-usd", "much"), "dollars, such as 5 or 0.50"),
        (("--day-usd", "0"), "dollars, above 0"),
        (("--month-usd", "NaN"), "dollars, above 0"),
        (("--per-minute", "0"), "requests, above 0"),
        (("--exhausted", "cry"), "give refuse or local_only"),
        (("--tag", "team"), "write KEY=VALUE"),
        (("--tag", "key=mine"), "the key's own"),
        (("--tag", "reserved_usd=0"), "the key's own"),
    ],
)
def test_a_key_that_cannot_work_is_not_made(
    config: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert words in run("keys", "create", config, "search", *arguments, code=2).output


def test_keys_need_a_database(config: Path) -> None:
    for url in ("memory://", "null"):
        config.write_text(CONFIG.replace("sqlite:///ledger.db", url), encoding="utf-8")
        assert "set ledger" in run("keys", "create", config, "a", code=2).output
    assert "there is no file" in run("keys", "list", "sqlite:////tmp/no/such.db", code=2).output


def test_the_command_serves_until_it_is_told_to_stop(config: Path) -> None:
    secret = run("keys", "create", config, "search").stdout.strip()
    command = [sys.executable, "-c", MAIN, "serve", str(config), "--port", "0"]
    environment = {**os.environ, "CASCADE__LOG__FORMAT": "json"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url, until = "", time.monotonic() + 60
        while "http" not in url and time.monotonic() < until:
            url = json.loads(process.stderr.readline())["message"]
        url = url[url.index("http") :].split()[0]
        with httpx.Client(base_url=url, headers={"X-API-Key": secret}) as client:
            models = client.get("/v1/models").json()
            assert client.get("/readyz").json()["ready"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        log = process.stderr.read()
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert [model["id"] for model in models["data"]] == ["support"]
    assert "shutdown: 0 requests under way" in log
    assert secret not in log
