"""What a shell offers for an option's value, after <TAB>. Nothing heavy is imported for it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

__all__ = [
    "EMBEDDED",
    "FORMS",
    "SCORERS",
    "SIGNALS",
    "TABLES",
    "configurations",
    "ledgers",
    "models",
    "one_of",
]

SCORERS = ("exact", "numeric", "choice", "contains", "json", "code", "judge")
SIGNALS = (
    "logprobs",
    "text",
    "prompt",
    "token_quantile",
    "p_true",
    "verbalised",
    "self_consistency",
)
TABLES = ("node", "tier", "model", "day", "agent", "tag:")
FORMS = ("messages", "prompt_completion", "preference")
EMBEDDED = "llamacpp:smollm2-135m"
"""The model that drafts where none is named."""
PROVIDERS = ("ollama:", "openai:", "anthropic:", "google_genai:", "mistralai:", "replay:")
LIST_TIMEOUT_S = 0.5
"""For a server at home; a person waits for the <TAB>."""
OF_LEDGERS = {".db", ".sqlite", ".sqlite3"}
OF_CONFIGURATIONS = {".yaml", ".yml", ".toml"}

Complete = Callable[[str], list[str]]


def one_of(values: Sequence[str]) -> Complete:
    """Those of the values that begin as what was typed."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(values, incomplete)

    return complete


def models(incomplete: str) -> list[str]:
    """The embedded model, those that Ollama has, and what others begin with."""
    pulled = [] if not "ollama:".startswith(incomplete[:7]) else _pulled()
    return _beginning([EMBEDDED, *pulled, *PROVIDERS], incomplete)


def ledgers(incomplete: str) -> list[str]:
    """Addresses of the ledgers in this folder, and what others begin with."""
    here = [f"sqlite:///{path.name}" for path in _files(OF_LEDGERS) if _is_ledger(path)]
    return _beginning([*here, "postgresql://"], incomplete)


def configurations(incomplete: str) -> list[str]:
    """Configurations in this folder, and the ledgers beside them."""
    files = [path.name for path in _files(OF_CONFIGURATIONS)]
    return _beginning(files, incomplete) + ledgers(incomplete)


def _beginning(values: Iterable[str], incomplete: str) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]


def _files(suffixes: set[str]) -> list[Path]:
    try:
        return sorted(path for path in Path().iterdir() if path.suffix in suffixes)
    except OSError:
        return []


def _is_ledger(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            found = file.execute("SELECT 1 FROM sqlite_master WHERE name = 'ledger_schema'")
            return found.fetchone() is not None
    except sqlite3.Error:
        return False


def _pulled() -> list[str]:
    """What Ollama has, where it answers at once."""
    from urllib.request import urlopen  # noqa: PLC0415 - heavy

    host = os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434"
    address = host if host.startswith(("http://", "https://")) else f"http://{host}"
    try:
        with urlopen(f"{address}/api/tags", timeout=LIST_TIMEOUT_S) as reply:  # noqa: S310 - above
            listed = json.load(reply)["models"]
            return [f"ollama:{model['name']}" for model in listed]
    except (OSError, ValueError, LookupError, TypeError):
        return []
