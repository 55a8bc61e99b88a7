"""Replays captured requests in a separate application that stores and captures nothing.

The application sends the request to the current upstream, or reads the recorded answers instead.
`forwarder.app` installs the function that builds it: only that module imports all parts of an
application.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, current_app

from forwarder.config.settings import Settings
from forwarder.context.redaction import Redactor, collect_settings_secrets
from forwarder.core.types import Json
from forwarder.observability.capture.playback import PlaybackTransport, fetch_placeholders
from forwarder.observability.capture.replay import (
    ReplayAnswer,
    ReplayRequest,
    make_playback_settings,
    make_replay_answer,
    make_replay_request,
    make_replay_settings,
)
from forwarder.services import ReplayOverrides

AnswerRequest = Callable[[Settings, ReplayOverrides, ReplayRequest], tuple[int, bytes]]
"""Builds an application, sends it one request, and returns the status and body of its answer."""

_NAME = "forwarder.replay"


def install_replay(app: Flask, answer: AnswerRequest) -> None:
    """Make ``answer`` the function that answers the replayed requests of ``app``."""
    app.extensions[_NAME] = answer


def get_replay_function() -> AnswerRequest:
    """Return the function that answers the replayed requests of the current application."""
    answer: AnswerRequest = current_app.extensions[_NAME]
    return answer


def replay_to_upstream(
    record: Json, key: str | None, settings: Settings, answer: AnswerRequest
) -> ReplayAnswer:
    """Send a captured request to the current upstream.

    Without ``key``, uses the first of FORWARDER_API_KEYS. Raises InvalidRequest for a record that
    cannot be replayed.
    """
    request = make_replay_request(record, choose_key(key, settings))
    status, data = answer(make_replay_settings(settings), ReplayOverrides(), request)
    return make_replay_answer(status, data, make_redactor(settings))


def replay_offline(
    record: Json, key: str | None, settings: Settings, answer: AnswerRequest
) -> ReplayAnswer:
    """Answer a captured request from the recorded answers of its upstreams.

    Raises InvalidRequest for a record that cannot be replayed.
    """
    request = make_replay_request(record, choose_key(key, settings))
    playback = PlaybackTransport(record.get("upstream") or ())
    overrides = ReplayOverrides(playback, fetch_placeholders)
    status, data = answer(make_playback_settings(settings, record), overrides, request)
    return make_replay_answer(status, data, make_redactor(settings))


def choose_key(key: str | None, settings: Settings) -> str | None:
    return key or next(iter(settings.api_keys), None)


def make_redactor(settings: Settings) -> Redactor:
    return Redactor(settings.capture_redact, collect_settings_secrets(settings))
