"""The application for gunicorn and ``flask run``."""

import sys

from forwarder.app import create_app
from forwarder.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    sys.stderr.write(f"The forwarder is not configured properly:\n{error}\n")
    sys.exit(4)  # gunicorn's "the application does not load"; after any other it tries for ever
