"""llama.cpp's own HTTP server (OpenAI-compatible), in this process, with the embedded model."""

from __future__ import annotations

import importlib
import secrets
from pathlib import Path
from typing import Any


class LlamaCppServer:
    """Listens on a free port of loopback and demands a key."""

    def __init__(self, weights: Path) -> None:
        xllamacpp: Any = importlib.import_module("xllamacpp")
        self.api_key = secrets.token_hex(16)
        params = xllamacpp.CommonParams()
        params.model.path = str(weights)
        params.n_parallel = 2
        params.n_ctx = 2 * 1024
        params.cpuparams.n_threads = 1
        params.verbosity = -1
        params.api_keys = [self.api_key]
        self._server = xllamacpp.Server(params)

    @property
    def openai_url(self) -> str:
        return f"{self._server.listening_address}/v1"
