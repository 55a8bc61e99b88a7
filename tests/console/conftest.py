"""Clients of the application for the pages of the console."""

from __future__ import annotations

from tests.server.conftest import demo, serve

__all__ = ["demo", "serve"]
