"""A server that plays the models, where commands look for Ollama."""

import signal
from collections.abc import Iterator

import pytest

from cascade.models.base import guard
from tests.acceptance.upstream import Upstream


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of this machine are asked, and no others: there are no keys."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "CASCADE_SMALL", "CASCADE_LARGE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    with Upstream() as running:
        monkeypatch.setattr(guard, "forbidden", False)
        monkeypatch.setenv("OLLAMA_HOST", running.url)
        yield running


@pytest.fixture
def keyboard() -> Iterator[None]:
    """Ctrl-C means what it means at a terminal, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
