"""What holds for every test."""

from __future__ import annotations

import ast
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from cascade.models.base import guard

# Machines that test are slow and shared: how long one example takes says nothing. Where a whole
# change is judged, the same examples are tried each time; elsewhere new ones may be found.
settings.register_profile("cascade", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("cascade")

HERE = Path(__file__).parent

LONGEST = (
    "jobs/test_ray_batch.py",
    "service/test_page_browser.py",
    "service/test_javascript_clients.py",
    "service/test_agent_clients.py",
    "service/test_fuzzed_gateway.py",
    "house/test_wheel.py",
    "house/test_examples.py",
    "house/test_notebook.py",
    "house/test_docs.py",
    "house/test_audit.py",
    "house/test_manual.py",
    "faults/test_every_fault.py",
    "faults/test_chaos.py",
    "api/test_options_together.py",
    "cli/test_batch_command.py",
    "cli/test_calibrate_command.py",
    "cli/test_demo_command.py",
    "demo/test_runner.py",
    "graph/test_resume_sqlite.py",
    "graph/test_killed.py",
    "graph/test_cancelling.py",
    "service/test_ray_serve.py",
    "integrations/test_langgraph_dev.py",
    "integrations/test_agent_tasks.py",
    "integrations/test_outlets_are_optional.py",
    "laws/test_fuzz.py",
    "ledger/store/test_crashes.py",
    "ledger/store/test_kept_texts.py",
    "models/test_live_servers.py",
    "oversight/test_audits_restart.py",
    "oversight/test_shadow.py",
    "oversight/test_shadow_readiness.py",
    "oversight/test_shadow_recorded.py",
    "report/test_making_reports.py",
    "report/test_report_recorded.py",
    "report/test_thresholds.py",
    "service/test_admission.py",
    "service/test_deploy.py",
    "service/test_deployed.py",
    "service/test_reload.py",
    "service/test_shared_budgets.py",
    "service/test_shared_leases.py",
    "service/test_shared_rollouts.py",
    "service/test_shutdown.py",
    "service/test_workers.py",
    "teaching/test_memory.py",
    "test_privacy.py",
)
"""Files that take long. Several processes share all files: the long ones are begun first, so that
in the end none of the processes waits for another."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and leave the order within each as it is."""
    places = {name: place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(HERE).as_posix()
        later = len(LONGEST) + ("test_live_" not in name)
        return places.get(name, later)

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _python_is_parsed_undisturbed() -> Iterator[None]:
    """Nothing is collected while a syntax tree is built: what a finalizer or another thread parses
    meanwhile is counted to it, which ends it with a `SystemError` (python/cpython#106905)."""
    parse = ast.parse

    def undisturbed(*given: Any, **named: Any) -> Any:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return parse(*given, **named)
        finally:
            if collecting:
                gc.enable()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ast, "parse", undisturbed)
        yield


@pytest.fixture(autouse=True)
def _real_requests_only_when_live(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that is not marked `live` cannot reach a real model."""
    monkeypatch.setattr(guard, "forbidden", request.node.get_closest_marker("live") is None)
