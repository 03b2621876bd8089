"""Who wants no outlet pays for none, and who lacks a package is told which."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASK = """
import sys
for absent in ("opentelemetry", "prometheus_client"):
    sys.modules[absent] = None
from cascade import Cascade
from cascade.testing import ScriptedModel, reply

Cascade(ScriptedModel([reply("4", probability=0.9)]), ScriptedModel(["5"])).invoke("2 + 2?")
print([name for name in sys.modules if name.startswith("cascade.integrations")])
"""

LACKS = """
import sys
sys.modules["{package}"] = None
from cascade.errors import MissingDependencyError
try:
    import cascade.integrations.{outlet}
except MissingDependencyError as error:
    print(error)
"""


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_no_outlet_is_imported_unless_asked_for() -> None:
    assert run(ASK).strip() == "[]"


@pytest.mark.parametrize(
    ("outlet", "package", "extra"),
    [
        ("opentelemetry", "opentelemetry", "agent-cascade[otel]"),
        ("prometheus", "prometheus_client", "agent-cascade[prometheus]"),
    ],
)
def test_a_missing_package_is_named(outlet: str, package: str, extra: str) -> None:
    assert f"pip install '{extra}'" in run(LACKS.format(outlet=outlet, package=package))
