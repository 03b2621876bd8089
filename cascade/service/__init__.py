"""The service: OpenAI's, Anthropic's and Ollama's protocols, with keys, budgets and a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily

if TYPE_CHECKING:
    from cascade.service.app import create_app as create_app
    from cascade.service.app import describe as describe
    from cascade.service.app import serve as serve
    from cascade.service.config import ServiceConfig as ServiceConfig
    from cascade.service.config import read_config as read_config
    from cascade.service.keys import Keys as Keys

__getattr__ = lazily(
    __name__,
    {"app": "create_app describe serve", "config": "ServiceConfig read_config", "keys": "Keys"},
)
