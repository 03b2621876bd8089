"""A cascade inside an agent of LangChain's: `create_agent(…, middleware=[CascadeMiddleware(…)])`"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.language_models import BaseChatModel

from cascade.api import Cascade
from cascade.errors import MissingDependencyError
from cascade.ledger.prices import Price
from cascade.tiers import ModelLike, Tier

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"{error}: in a clone, pip install '.[langchain]'.") from error


class CascadeMiddleware(AgentMiddleware[Any, Any, Any]):
    """Cascade around the agent's own model: a small model drafts what that one is asked.

    Answers say who gave them and what they cost, as those of `CascadeChatModel` do.

    Args:
        small: the model that drafts; the agent's own model is the large one.
        large_price: of the agent's own model, where list prices do not know it.
        options: other options of `Cascade`, which is made at the first step.

    Raises:
        MissingDependencyError: (on import) langchain is not installed.
    """

    def __init__(
        self, small: ModelLike, *, large_price: Price | None = None, **options: Any
    ) -> None:
        super().__init__()
        self._small, self._large_price, self._options = small, large_price, options
        self._made: dict[int, tuple[BaseChatModel, Any]] = {}

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[..., Any]) -> Any:
        """Ask a cascade where the agent would ask its model."""
        large = request.model
        if id(large) not in self._made:
            made = Cascade(self._small, Tier(large, price=self._large_price), **self._options)
            self._made.setdefault(id(large), (large, made.as_chat_model()))
        return handler(request.override(model=self._made[id(large)][1]))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[..., Awaitable[Any]]
    ) -> Any:
        """`wrap_model_call` for agents that run asynchronously."""
        return await self.wrap_model_call(request, handler)

    async def aclose(self) -> None:
        """Close the connections of the cascades that were made here."""
        for _, model in self._made.values():
            await model.cascade.aclose()
