"""The gateway: OpenAI's and Ollama's protocols in front of cascades, with keys and budgets.

    cascade serve cascade.yaml

`create_app(config)` is the application, for a server of your own.
"""

from __future__ import annotations

from cascade.service.app import create_app
from cascade.service.config import ServiceConfig
from cascade.service.faults import ServiceError
from cascade.service.service import Service

__all__ = ["Service", "ServiceConfig", "ServiceError", "create_app"]
