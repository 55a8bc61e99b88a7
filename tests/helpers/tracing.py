"""Where the tests of traces are skipped, and why."""

from __future__ import annotations

import os

import pytest


def need_opentelemetry() -> None:
    """Skip the module unless the packages are there; ``REQUIRE_CLIENTS=1`` insists on them."""
    if os.environ.get("REQUIRE_CLIENTS") != "1":
        how = "pip install -r requirements-otel.txt"
        for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
            pytest.importorskip(name, reason=f"OpenTelemetry is not installed: {how}")
