"""The application for gunicorn and ``flask run``: ``forwarder.wsgi:app``.

The import of the application takes more than a second, so gunicorn's settings are checked before.
"""

from forwarder.server.gunicorn_check import find_gunicorn_mistake, refuse_to_load

if mistake := find_gunicorn_mistake():
    refuse_to_load(f"The forwarder did not start: {mistake}")

from forwarder.app import create_app
from forwarder.config.settings import ConfigError
from forwarder.server.startup_log import log_start

try:
    app = create_app()
except ConfigError as error:
    refuse_to_load(f"The configuration of the forwarder is invalid:\n{error}")

log_start(app)
