"""The ``forwarder`` command."""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import ScriptInfo

from forwarder import __version__
from forwarder.app import create_app
from forwarder.cli.check import InvalidConfiguration, check
from forwarder.cli.models import build_keys_group, build_models_group
from forwarder.cli.replay import make_replay_command
from forwarder.cli.serve import serve
from forwarder.cli.upstream import build_probe_command, build_translate_command
from forwarder.config.settings import ConfigError


@click.group("forwarder", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="forwarder")
@click.pass_context
def main(context: click.Context) -> None:
    """Translate between OpenAI's Chat Completions and Responses APIs.

    Reads settings from the environment and from the file .env in the current directory.
    """
    context.obj = ScriptInfo(create_app=_load_app, set_debug_flag=False)


def _load_app() -> Flask:
    try:
        return create_app()
    except ConfigError as error:
        raise InvalidConfiguration(error.mistakes) from error


for _command in (
    serve,
    check,
    build_probe_command,
    build_translate_command,
    build_models_group,
    build_keys_group,
    make_replay_command(create_app),
):
    main.add_command(_command)
