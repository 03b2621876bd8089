"""The page that shows the money, and its login; everything comes from this package."""

from __future__ import annotations

from fastapi import APIRouter

from cascade.service.page import events, files, login, play, routes

router = APIRouter(include_in_schema=False)
for part in (routes, events, play, login, files):
    router.include_router(part.router)

__all__ = ["router"]
