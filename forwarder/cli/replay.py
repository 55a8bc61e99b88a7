"""``forwarder replay``: sends a captured request again and compares the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import orjson

from forwarder.cli.context import with_bridge
from forwarder.config.settings import Settings
from forwarder.core.errors import ForwarderError
from forwarder.core.terminal_escapes import escape_control_characters, print_line
from forwarder.core.types import Json
from forwarder.observability.capture.observer import (
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
from forwarder.pipeline.gateway import Gateway

AppFactory = Callable[[Settings], Any]
"""Makes an application."""


class ReplayError(click.ClickException):
    """1 says that answers differ."""

    exit_code = 2


def make_replay_command(make: AppFactory) -> click.Command:
    """The command; ``make`` is ``create_app``, which imports this module."""

    @click.command("replay")
    @click.argument("name", metavar="ID|FILE")
    @click.option(
        "--upstream",
        "which",
        type=click.Choice(["today", "captured"]),
        default="today",
        help="Ask today's upstream, or hear again what the captured one said, which asks nobody.",
    )
    @click.option("--key", envvar="REPLAY_KEY", help="The client's key: no record has it.")
    @with_bridge
    def command(bridge: Gateway, name: str, which: str, key: str | None) -> None:
        """Send a captured request again, and show how its answer differs from that time's.

        ID is an exchange's or its request's, FILE what GET /forwarder/exchanges/ID gave.  Exits
        with 1 when the answers differ.  Nothing is stored.
        """
        settings = bridge.settings
        record = load_record(name, settings)
        try:
            for note in list_caveats(record):
                print_line(f"note: {note}", err=True)
            now = run_replay(record, which, key, settings, make)
        except ForwarderError as error:
            raise ReplayError(escape_control_characters(error.message)) from error
        print_line("\n".join(now.format_lines()))
        found = diff_answers(read_recorded_answer(record), now)
        print_line("\n".join(found or ["The same as was captured."]), err=True)
        raise SystemExit(1 if found else 0)

    return command


def run_replay(
    record: Json, which: str, key: str | None, settings: Settings, make: AppFactory
) -> ReplayAnswer:
    """What comes today; FORWARDER_API_KEYS has a key for a client who had any of them."""
    asked = make_replay_request(record, key or next(iter(settings.api_keys), None))
    if which == "today":
        app = make(make_replay_settings(settings))
        app.extensions["forwarder"].use_for_replay()
    else:
        app = make(make_playback_settings(settings, record))
        playback = PlaybackTransport(record.get("upstream") or ())
        app.extensions["forwarder"].use_for_replay(playback, fetch_placeholders)
    with app.test_client().post(asked.path, data=asked.body, headers=asked.headers) as answer:
        return make_replay_answer(answer.status_code, answer.get_data(), settings)


def load_record(name: str, settings: Settings) -> Json:
    """The record in a file, or where captured ones are."""
    file = Path(name)
    if file.is_file():
        said: bytes | None = file.read_bytes()
    elif settings.capture in (CAPTURE_OFF, CAPTURE_IN_MEMORY):
        raise ReplayError(
            f"There is no file '{name}', and FORWARDER_CAPTURE={settings.capture} leaves nothing "
            "that another process could read: save what GET /forwarder/exchanges/ID gives."
        )
    else:
        said = make_capture_store(settings).find(name)
    if said is None:
        raise ReplayError(f"There is no exchange '{name}' in {settings.capture}.")
    try:
        return dict(orjson.loads(said))
    except (ValueError, TypeError):
        raise ReplayError(f"'{name}' is no record of an exchange.") from None
