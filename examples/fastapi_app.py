"""A FastAPI app around a cascade: one route that answers, and one that says what was saved.

    python examples/fastapi_app.py                  asks itself, in this process
    uvicorn --app-dir examples fastapi_app:app      serves it

Needs the extra `service`. For keys, budgets and OpenAI's protocol there is `cascade serve`
(docs/service.md).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from cascade import Cascade, CascadeError, LedgerView, MemoryLedger, Price, Tier
from cascade.testing import ScriptedModel, reply

DRAFTS = {
    "What is the capital of Australia?": reply("Canberra.", probability=0.97),
    "Who founded it?": reply("Captain Cook.", probability=0.4),
}
small = Tier(ScriptedModel(DRAFTS), price=Price(input=0.02, output=0.06))
large = Tier(ScriptedModel("Its government, in 1913."), price=Price(input=1.25, output=10))
ledger = MemoryLedger()
cascade = Cascade(small, large, ledger=ledger, deadline=30)


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
        result = await cascade.ainvoke(question.text)
    except CascadeError as error:
        raise HTTPException(502, "no model could answer") from error
    return Answer(answer=result.answer, tier=result.tier, reason=result.decision.reason)


@app.get("/saved")
async def saved() -> dict[str, str]:
    view = LedgerView(ledger.entries)
    return {"saved_usd": str(view.saved_usd), "basis": view.saved_basis, "table": view.table()}


async def main() -> None:
    here = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with lifespan(app), here as client:
        for text in DRAFTS:
            print((await client.post("/ask", json={"text": text})).json())
        print((await client.get("/saved")).json()["table"])


if __name__ == "__main__":
    asyncio.run(main())
