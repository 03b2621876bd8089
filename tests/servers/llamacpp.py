"""llama.cpp's own HTTP server (OpenAI-compatible), in this process, with the embedded model."""

from __future__ import annotations

import importlib
import secrets
from pathlib import Path
from typing import Any

HERMES = """\
{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n\\nYou may call these functions:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools>\\n\\nFor each call, return a json object:\\n<tool_call>\\n' }}
{{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""A chat template in which a model writes its calls as many do, for weights without tools."""


class LlamaCppServer:
    """Listens on a free port of loopback and demands a key."""

    def __init__(self, weights: Path, *, chat_template: str | None = None) -> None:
        xllamacpp: Any = importlib.import_module("xllamacpp")
        self.api_key = secrets.token_hex(16)
        params = xllamacpp.CommonParams()
        params.model.path = str(weights)
        params.n_parallel = 2
        params.n_ctx = 2 * 1024
        params.cpuparams.n_threads = 1
        params.verbosity = -1
        params.api_keys = [self.api_key]
        if chat_template is not None:
            params.chat_template = chat_template
        self._server = xllamacpp.Server(params)

    @property
    def openai_url(self) -> str:
        return f"{self._server.listening_address}/v1"
