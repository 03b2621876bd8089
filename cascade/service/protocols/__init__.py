"""The protocols that clients speak."""

from __future__ import annotations

from fastapi import APIRouter


def routers() -> tuple[APIRouter, ...]:
    """The routes of all protocols."""
    return ()
