"""The application for ``gunicorn wsgi:app`` and ``flask --app wsgi`` in a checkout."""

from forwarder.wsgi import app

__all__ = ["app"]
