"""The service: gateways for the protocols of OpenAI, Anthropic and Ollama, with keys, budgets and a
page. Names load on first use: FastAPI and the clients' types take a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade.service.app import create_app
    from cascade.service.config import Configured, ServiceConfig, read_config
    from cascade.service.keys import Key, Keys
    from cascade.service.serving import describe, serve

_HOMES = {
    "Configured": "config",
    "Key": "keys",
    "Keys": "keys",
    "ServiceConfig": "config",
    "create_app": "app",
    "describe": "serving",
    "read_config": "config",
    "serve": "serving",
}

__all__ = [
    "Configured",
    "Key",
    "Keys",
    "ServiceConfig",
    "create_app",
    "describe",
    "read_config",
    "serve",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cascade.service' has no attribute {name!r}")
    return getattr(import_module(f"cascade.service.{_HOMES[name]}"), name)
