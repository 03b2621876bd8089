"""A FastAPI app around a cascade: one route that answers, and one that says what was saved.

    python examples/fastapi_app.py                       asks itself, in this process
    python examples/fastapi_app.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1
    uvicorn --app-dir examples fastapi_app:app           serves it; models: see _live.py

Needs: pip install agent-cascade fastapi uvicorn. Offline both models are scripted. For keys,
budgets and OpenAI's protocol there is `cascade serve` (docs/service.md).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from _live import yours
from fastapi import FastAPI, HTTPException
from langchain_core.messages import HumanMessage
from pydantic import BaseModel, Field

from cascade import Cascade, CascadeError, LedgerView, MemoryLedger, Price, Tier
from cascade.testing import ScriptedModel, reply

SMALL = {
    "What is the capital of Australia?": reply("Canberra.", probability=0.97),
    "Who founded it?": reply("Captain Cook.", probability=0.4),
}
small, large = yours(
    Tier(ScriptedModel(SMALL), price=Price(input=0.02, output=0.06)),
    Tier(ScriptedModel(["Its government, in 1913."]), price=Price(input=1.25, output=10)),
)
cascade = Cascade(small, large, ledger=(ledger := MemoryLedger()))


class Question(BaseModel):
    text: str = Field(min_length=1, max_length=2000)


class Answer(BaseModel):
    answer: str
    tier: str
    reason: str


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with cascade:  # its connections are closed when the app ends
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: Question) -> Answer:
    try:
        state = await cascade.graph.ainvoke({"messages": [HumanMessage(question.text)]})
    except CascadeError as error:
        raise HTTPException(502, "no model could answer") from error
    message, reason = state["messages"][-1], state["decision"].reason
    return Answer(answer=message.text, tier=message.response_metadata["tier"], reason=reason)


@app.get("/saved")
async def saved() -> dict[str, str]:
    view = LedgerView(ledger.entries)
    return {"saved_usd": str(view.saved_usd), "basis": view.saved_basis, "table": view.table()}


async def main() -> None:
    here = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with lifespan(app), here as client:
        for text in SMALL:
            print((await client.post("/ask", json={"text": text})).json())
        print((await client.get("/saved")).json()["table"])


if __name__ == "__main__":
    asyncio.run(main())
