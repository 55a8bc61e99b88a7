"""The application for gunicorn and ``flask run``."""

import sys

from forwarder.app import create_app
from forwarder.config import ConfigError
from forwarder.network.serving import find_gunicorn_mistake

_WILL_NOT_LOAD = 4
"""gunicorn's exit code for an application that does not load; after others it tries for ever."""

if mistake := find_gunicorn_mistake():
    sys.stderr.write(f"The forwarder is not started: {mistake}\n")
    sys.exit(_WILL_NOT_LOAD)

try:
    app = create_app()
except ConfigError as error:
    sys.stderr.write(f"The forwarder is not configured properly:\n{error}\n")
    sys.exit(_WILL_NOT_LOAD)
