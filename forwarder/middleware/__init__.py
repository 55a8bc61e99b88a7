"""Middleware that emulates features which an API or a provider lacks.

Each middleware is a function ``Handler -> Handler``. It removes its parameter from the request and
transforms the event stream. If a request does not use the parameter, the middleware returns the
inner handler's stream itself. `forwarder.pipeline.pipeline` declares the order.
"""
