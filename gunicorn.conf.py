"""gunicorn's settings; its own command line and ``GUNICORN_CMD_ARGS`` go before them."""

worker_class = "gevent"
worker_connections = 4000  # a stream that waits for its upstream costs little
keepalive = 30  # seconds; agents send one request after the other
control_socket_disable = True  # one path for all instances of a user, and nobody asked for it
