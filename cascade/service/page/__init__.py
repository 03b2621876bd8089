"""The page that shows the money."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
