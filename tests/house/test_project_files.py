"""What stands around the code agrees with it: citation, distributions, forms, containers."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import cascade
import dist
import floors
from cascade.service import read_config

ROOT = floors.ROOT
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_and_the_changelog_are_of_this_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == cascade.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert f"## [{cascade.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_classifiers_name_pythons_on_which_the_wheel_is_tried() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert set(named) <= set(dist.VERSIONS)
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"


def test_every_extra_is_tried_or_named_as_too_heavy() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    assert extras - set(dist.EXTRAS.split(",")) == set(dist.TOO_HEAVY)


def test_what_goes_into_the_source_distribution_exists() -> None:
    for name in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / name.removeprefix("/")).exists(), name


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_has_what_a_form_needs(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_the_configuration_of_the_container_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_URL", "sqlite:///l.db")
    monkeypatch.setenv("OLLAMA_URL", "http://o:1")
    config = read_config(ROOT / "deploy" / "cascade.yaml")
    assert config.listen.host == "0.0.0.0"
    assert config.cascades


def test_the_composed_services_give_the_gateway_what_its_configuration_names() -> None:
    services = read(ROOT / "deploy" / "compose.yaml")["services"]
    named = set(re.findall(r"\$\{(\w+)\}", (ROOT / "deploy" / "cascade.yaml").read_text("utf-8")))
    assert named <= services["gateway"]["environment"].keys()
    build = services["gateway"]["build"]
    assert (ROOT / "deploy" / build["context"] / build["dockerfile"]).is_file()


def test_each_test_file_has_a_name_of_its_own() -> None:
    # In folders without packages, pytest cannot import two modules of one name.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
