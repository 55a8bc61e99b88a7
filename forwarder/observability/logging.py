"""Logging on standard error: its level and format, and the warnings about the configuration."""

from __future__ import annotations

import logging
import sys

from forwarder.config.settings import Settings
from forwarder.core.encryption import MIN_STRONG_SECRET_LENGTH
from forwarder.observability.log_formats import JsonFormatter, TextFormatter

log = logging.getLogger("forwarder.app")


def configure_logging(settings: Settings, min_level: str = "DEBUG") -> None:
    """Send the forwarder's log records to standard error. Repeated calls replace the handler.

    Records below ``min_level`` are left out under any settings.
    """
    root = logging.getLogger("forwarder")
    levels = logging.getLevelNamesMapping()
    root.setLevel(max(levels[settings.log_level], levels[min_level]))
    root.propagate = False
    # No formatter here shows the caller or the names of threads, so skip the walk through the
    # stack. https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(settings))
    root.handlers[:] = [handler]


def make_formatter(settings: Settings) -> logging.Formatter:
    """Return the formatter of the settings, whose defaults depend on standard error."""
    if not is_text_log(settings):
        return JsonFormatter()
    color = settings.log_color
    return TextFormatter(sys.stderr.isatty() if color is None else color)


def is_text_log(settings: Settings) -> bool:
    """Return whether the log is text: by default on a terminal."""
    return settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())


def log_configuration(settings: Settings) -> None:
    """Warn about settings that are unsafe or surprising."""
    if settings.demo:
        log.warning(
            "No upstream is configured: answering from the built-in demo. "
            "Set CHAT_BASE_URL or RESPONSES_BASE_URL to use a provider.",
            extra={"event": "demo_upstream"},
        )
    if any(len(secret) < MIN_STRONG_SECRET_LENGTH for secret in settings.secret_keys):
        log.warning(
            "FORWARDER_SECRET_KEY contains a secret of fewer than %d characters, which an attacker "
            "may guess. Put a long random secret in front of it (openssl rand -base64 32).",
            MIN_STRONG_SECRET_LENGTH,
            extra={"event": "weak_secret_key"},
        )
