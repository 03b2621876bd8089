"""Which models are versions of another."""

from __future__ import annotations

import pytest

from cascade.models.versions import is_another


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("gpt-5.1", "gpt-5.1"),
        ("gpt-5.1", "gpt-5.1-2025-11-13"),
        ("gpt-4", "gpt-4-0613"),
        ("gemini-1.5-pro", "gemini-1.5-pro-002"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022"),
        ("qwen2.5", "qwen2.5:latest"),
        ("openai/gpt-4o", "gpt-4o-2024-08-06"),
        ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("gemini-2.5-flash-preview-05-20", "gemini-2.5-flash"),
    ],
)
def test_a_version_is_the_same_model(asked: str, answered: str) -> None:
    assert not is_another(asked, answered)
    assert not is_another(answered, asked)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4", "gpt-4.1"),
        ("qwen2.5:3b", "qwen2.5:7b"),
        ("gpt-5.1", "another-model"),
        ("gpt-5.1", ""),
    ],
)
def test_another_model_is_told(asked: str, answered: str) -> None:
    assert is_another(asked, answered)
