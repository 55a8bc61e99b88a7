"""The HTTP layer: Flask blueprints per API family, request hooks, WSGI middleware, gunicorn."""
