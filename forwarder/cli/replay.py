"""``forwarder replay``: resends a captured request and compares the responses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import orjson

from forwarder.cli import print_line
from forwarder.cli.context import with_settings
from forwarder.config.settings import Settings
from forwarder.core.errors import ForwarderError
from forwarder.core.terminal_text import escape_control_characters
from forwarder.core.types import Json
from forwarder.observability.capture import (
    CAPTURE_IN_MEMORY,
    CAPTURE_OFF,
    make_capture_store,
)
from forwarder.observability.capture.playback import PlaybackTransport, fetch_placeholders
from forwarder.observability.capture.replay import (
    ReplayAnswer,
    diff_answers,
    list_caveats,
    make_playback_settings,
    make_replay_answer,
    make_replay_request,
    make_replay_settings,
    read_recorded_answer,
)
from forwarder.services import ReplayOverrides, Services

AppFactory = Callable[[Services], Any]
"""Creates an application over services."""


class ReplayError(click.ClickException):
    """Exits with 2, since 1 means that the responses differ."""

    exit_code = 2


def make_replay_command(make_app: AppFactory) -> click.Command:
    """Create the command; ``make_app`` is `app.make_app`, whose module imports this one."""

    @click.command("replay")
    @click.argument("name", metavar="ID|FILE")
    @click.option(
        "--upstream",
        "upstream",
        type=click.Choice(["today", "captured"]),
        default="today",
        help="Send to the current upstream, or replay the captured upstream responses offline.",
    )
    @click.option(
        "--key", envvar="REPLAY_KEY", help="The client's key. Captures do not contain it."
    )
    @with_settings
    def command(settings: Settings, name: str, upstream: str, key: str | None) -> None:
        """Resend a captured request and show how the response differs from the captured one.

        ID is the id of a capture or of its request, FILE the output of GET
        /forwarder/exchanges/ID. Exits with 1 if the responses differ. Stores nothing.
        """
        record = load_record(name, settings)
        try:
            for note in list_caveats(record):
                print_line(f"note: {note}", err=True)
            response = run_replay(record, upstream, key, settings, make_app)
        except ForwarderError as error:
            raise ReplayError(escape_control_characters(error.message)) from error
        print_line("\n".join(response.format_lines()))
        differences = diff_answers(read_recorded_answer(record), response)
        print_line("\n".join(differences or ["The response equals the captured one."]), err=True)
        raise SystemExit(1 if differences else 0)

    return command


def run_replay(
    record: Json, upstream: str, key: str | None, settings: Settings, make_app: AppFactory
) -> ReplayAnswer:
    """Return the new response. Without ``key``, uses the first of FORWARDER_API_KEYS."""
    replay_request = make_replay_request(record, key or next(iter(settings.api_keys), None))
    if upstream == "today":
        replay_settings, overrides = make_replay_settings(settings), ReplayOverrides()
    else:
        replay_settings = make_playback_settings(settings, record)
        playback = PlaybackTransport(record.get("upstream") or ())
        overrides = ReplayOverrides(playback, fetch_placeholders)
    with (
        Services.build(replay_settings, overrides) as services,
        make_app(services)
        .test_client()
        .post(
            replay_request.path, data=replay_request.body, headers=replay_request.headers
        ) as answer,
    ):
        return make_replay_answer(answer.status_code, answer.get_data(), settings)


def load_record(name: str, settings: Settings) -> Json:
    """Load a capture from a file or from the capture store."""
    file = Path(name)
    if file.is_file():
        data: bytes | None = file.read_bytes()
    elif settings.capture in (CAPTURE_OFF, CAPTURE_IN_MEMORY):
        raise ReplayError(
            f"There is no file '{name}', and other processes cannot read captures with "
            f"FORWARDER_CAPTURE={settings.capture}. Save the output of GET /forwarder/exchanges/ID."
        )
    else:
        data = make_capture_store(settings).find(name)
    if data is None:
        raise ReplayError(f"There is no exchange '{name}' in {settings.capture}.")
    try:
        return dict(orjson.loads(data))
    except (ValueError, TypeError):
        raise ReplayError(f"'{name}' is not a captured exchange.") from None
