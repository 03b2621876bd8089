"""What the readers of `fuzz_targets` usually read: where a search for inputs begins."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cascade.confidence.calibrating import LabelledDraft, MadeFor, calibrate
from cascade.confidence.calibration import ModelIdentity

__all__ = ["SEEDS"]

TOKENS = [{"token": "Pa", "logprob": -0.1, "bytes": [80, 97]}, {"token": "ris", "logprob": -0.2}]


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _chunk(**delta: object) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": {"content": TOKENS}, "finish_reason": "stop"}
    return b"data: " + _json({"id": "a", "model": "m", "choices": [choice]}) + b"\n\n"


def _gguf() -> bytes:
    def text(value: str) -> bytes:
        return len(value).to_bytes(8, "little") + value.encode()

    def number(value: int, size: int = 4) -> bytes:
        return value.to_bytes(size, "little")

    entries = [
        text("general.architecture") + number(8) + text("llama"),
        text("llama.context_length") + number(4) + number(2048),
        text("tokenizer.chat_template") + number(8) + text("{{ messages }}"),
        text("tokens") + number(9) + number(8) + number(2, 8) + text("a") + text("b"),
        text("lists") + number(9) + number(9) + number(1, 8) + number(0) + number(2, 8) + b"ab",
    ]
    return b"GGUF" + number(3) + number(0, 8) + number(len(entries), 8) + b"".join(entries)


def _calibration() -> bytes:
    drafts = [
        LabelledDraft({"logprob_mean": -at / 50, "logprob_min": -at / 9}, float(at % 7 < 4), 1.0)
        for at in range(60)
    ]
    small = ModelIdentity(name="ollama:m", digest="d")
    made_for = MadeFor(
        small=small, large=None, task_hash="t", system_hash=None, labels="references"
    )
    made = calibrate(drafts, [("logprobs", 0)], made_for)
    return made.model_dump_json().encode()


CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "Hm?"}, IMAGE]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "rain"},
]
OLLAMA_CALL = {"function": {"name": "weather", "arguments": {"a": 1}}}
CONFIGURATION = b"""listen: {host: 127.0.0.1, port: 8080}
ledger: {url: "sqlite:///ledger.db", texts: none}
cascades:
  support:
    tiers:
      - {model: "ollama:small", price: {input: 0.1, output: 0.4}}
      - {model: "openai:large", api_key: "${KEY}", price: {input: 1, output: 8}}
    price_of_error: 0.05
"""
TRANSCRIPT = {
    "id": "q1",
    "prompt": "2 + 2?",
    "models": {"small": {"answer": "4", "correct": True, "cost_usd": 0.1, "features": {"x": 1.0}}},
}
HEADER = {"version": 1, "model": "m", "recorded_at": "2026-01-01T00:00:00Z"}
ANSWER = {
    "key": "k",
    "question": "q",
    "answer": {"text": "4", "model": "m", "logprobs": [["4", -0.1, []]]},
}

SEEDS: dict[str, Sequence[bytes]] = {
    "openai_stream": [
        _chunk(content="Paris") + b"data: " + _json({"choices": [], "usage": USAGE}) + b"\n\n",
        _chunk(tool_calls=[{"index": 0, **CALL}], reasoning_content="hm") + b"data: [DONE]\n\n",
    ],
    "ollama_stream": [
        _json({"model": "m", "message": {"content": "Paris"}, "logprobs": TOKENS})
        + b"\n"
        + _json({"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}),
        _json({"message": {"tool_calls": [OLLAMA_CALL], "thinking": "hm"}, "done": True}),
    ],
    "logprobs": ([_json({"text": "Paris", "items": TOKENS, "thinking": None})]),
    "spoken_calls": [
        b'<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
        b'```json\n[{"name": "weather", "parameters": {}}]\n```',
    ],
    "prices": [
        _json({"input": 1, "output": "8.5", "cached_input": 0.1, "per_tool_call": "0.01"}),
        _json({"per_hour": 1, "power_per_hour": 0.1}),
        _json({"hardware_per_hour": "1", "utilisation": 0.5, "kw": 0.4, "kwh": "0.3"}),
    ],
    "recordings": ([_json(HEADER) + b"\n" + _json(ANSWER) + b"\n"]),
    "calibrations": ([_calibration()]),
    "gguf_heads": ([_gguf()]),
    "configurations": ([CONFIGURATION]),
    "toml_configurations": ([b'[listen]\nport = 80\n[[cascades.a.tiers]]\nmodel = "ollama:m"\n']),
    "transcripts": ([_json(TRANSCRIPT) + b"\n"]),
    "gateway_chat": ([_json({"model": "support", "messages": MESSAGES, "max_tokens": 5, "n": 2})]),
    "gateway_ollama": [
        _json(
            {
                "model": "support",
                "messages": [{"role": "user", "content": "a", "images": ["AA"]}],
                "options": {"num_predict": 3},
                "format": "json",
            }
        ),
        _json(
            {
                "model": "m",
                "messages": [
                    {"role": "assistant", "tool_calls": [OLLAMA_CALL]},
                    {"role": "tool", "tool_name": "weather", "content": "rain"},
                ],
            }
        ),
    ],
    "gateway_responses": [
        _json(
            {
                "model": "m",
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": "rain"},
                ],
            }
        ),
        _json({"model": "m", "input": "a", "text": {"format": {"type": "json_object"}}}),
    ],
}
