"""Skips tests of traces without OpenTelemetry."""

from __future__ import annotations

import os

import pytest


def need_opentelemetry() -> None:
    """Skip the test module if a package is missing, unless ``REQUIRE_CLIENTS=1`` is set."""
    if os.environ.get("REQUIRE_CLIENTS") != "1":
        install_command = "pip install -r requirements-otel.txt"
        for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
            pytest.importorskip(name, reason=f"OpenTelemetry is not installed: {install_command}")
