"""Access to the application for commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import current_app
from flask.cli import with_appcontext


def with_gateway(command: Callable[..., Any]) -> Callable[..., Any]:
    """Load the application when the command runs and pass its `Gateway` as first argument."""

    @with_appcontext
    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        return command(current_app.extensions["forwarder"], *arguments, **options)

    return run
