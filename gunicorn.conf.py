"""gunicorn's settings: gevent workers, bound to this machine unless told otherwise."""

worker_class = "gevent"
