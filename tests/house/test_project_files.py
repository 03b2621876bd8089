"""Citation, templates, metadata: what stands around the code agrees with it."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import cascade
import dist
import floors

ROOT = floors.ROOT
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FORMS = [path for path in TEMPLATES if path.name != "config.yml"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_is_one_by_its_schema_and_of_this_version() -> None:
    found = importlib.util.find_spec("cffconvert")
    assert found is not None
    assert found.origin is not None
    schema = Path(found.origin).parent / "schemas" / "1.2.0" / "schema.json"
    citation = read(ROOT / "CITATION.cff")
    jsonschema.validate(citation, json.loads(schema.read_text(encoding="utf-8")))
    assert citation["version"] == cascade.__version__
    assert citation["license"] == PROJECT["project"]["license"]


def test_the_classifiers_name_the_pythons_that_are_promised() -> None:
    classifiers = PROJECT["project"]["classifiers"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers))
    assert set(named) <= set(dist.VERSIONS)
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    promised = f"Python {named[0]} to {named[-1]}"
    assert promised in (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")


def test_every_extra_is_tried_or_named_as_too_heavy() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    assert extras - set(dist.EXTRAS.split(",")) == set(dist.TOO_HEAVY)


def test_ci_tries_the_package_on_every_python() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    (versions,) = [
        step["with"]["python-version"].split()
        for step in jobs["package"]["steps"]
        if "with" in step
    ]
    assert tuple(versions) == dist.VERSIONS


def test_what_goes_into_the_source_distribution_exists() -> None:
    for name in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / name.removeprefix("/")).exists(), name


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_has_what_a_form_needs(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "labels", "body"} <= form.keys()
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert len({part["id"] for part in fields}) == len(fields)
    assert all(part["attributes"]["label"] for part in fields)
    assert any(part.get("validations", {}).get("required") for part in fields)


def test_the_code_of_conduct_names_a_way_and_no_address() -> None:
    text = (ROOT / "CODE_OF_CONDUCT.md").read_text(encoding="utf-8")
    assert "[INSERT" not in text
    assert not re.search(r"\S+@\S+", text)
    assert "Report a vulnerability" in text
    assert "Report a vulnerability" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
