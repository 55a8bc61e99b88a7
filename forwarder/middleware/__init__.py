"""Wrappers around handlers that add what an API or a provider lacks.

Each is a function ``Handler -> Handler``: it takes its parameter out of the request and works on
the stream of the answer.  A request that does not use it gets the inner handler's own stream.
`forwarder.pipeline.pipeline` declares their order.
"""
