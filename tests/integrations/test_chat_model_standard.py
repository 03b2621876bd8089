"""LangChain's standard suites for chat models.

Against a real HTTP server, through the real adapters, with a small model that is unsure of every
second answer. What is left out is left out by the suites' own switches, with the reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.load.load import (
    _default_class_paths_cache,
    _get_default_allowed_class_paths,
)
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from cascade.integrations.chat_model import CascadeChatModel
from cascade.models.openai import OpenAIModel
from tests.servers.obliging import ObligingServer

KEY = {"OPENAI_API_KEY": "a-key"}


@pytest.fixture
def benchmark() -> Callable[[Callable[[], None]], None]:
    """The plugin of this name is switched off here: what it would time has to run, no more."""
    return lambda function: function()


class TestUnit(ChatModelUnitTests):
    @pytest.fixture(autouse=True)
    def _may_be_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The suite loads with `allowed_objects="all"`, a list of classes that LangChain knows."""
        allowed = {*_get_default_allowed_class_paths("all"), tuple(CascadeChatModel.lc_id())}
        monkeypatch.setitem(_default_class_paths_cache, "all", allowed)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return CascadeChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"small": "openai:small", "large": "openai:large", "api_key": "a-key"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        models = {"small": "openai:small", "large": "openai:large"}
        return KEY, models, {"api_key": "a-key", **models}


@pytest.mark.filterwarnings("ignore:OpenAI may require a filename")  # the suite gives none
class TestIntegration(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    async def _at_the_server(
        self, obliging: ObligingServer, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[None]:
        monkeypatch.setenv("OPENAI_BASE_URL", obliging.openai_url)
        opened: list[OpenAIModel] = []
        opens = OpenAIModel.__init__

        def remembered(model: OpenAIModel, *args: Any, **kwargs: Any) -> None:
            opens(model, *args, **kwargs)
            opened.append(model)

        monkeypatch.setattr(OpenAIModel, "__init__", remembered)
        yield
        for model in opened:
            await model.aclose()

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return CascadeChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"small": "openai:small", "large": "openai:large", "api_key": "a-key"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False  # a cascade asks its own models: `model=` is refused, not ignored

    @pytest.fixture(autouse=True)
    def _nothing_is_downloaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The suite fetches its pictures and documents from the internet: here, any bytes do."""
        monkeypatch.setattr("httpx.get", lambda *_, **__: httpx.Response(200, content=b"bytes"))
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "none is needed")

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    # enable_vcr_tests stays off: there is nothing to record, the server is at hand.
