"""The application for gunicorn and ``flask run``: ``forwarder.wsgi:app``."""

from forwarder.app import create_app
from forwarder.config.settings import ConfigError
from forwarder.server.gunicorn_check import find_gunicorn_mistake, refuse_to_load
from forwarder.server.startup_log import log_start

if mistake := find_gunicorn_mistake():
    refuse_to_load(f"The forwarder did not start: {mistake}")

try:
    app = create_app()
except ConfigError as error:
    refuse_to_load(f"The configuration of the forwarder is invalid:\n{error}")

log_start(app)
