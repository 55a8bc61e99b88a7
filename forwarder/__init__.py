"""A forwarder that translates between OpenAI's two APIs and serves Ollama's API.

    client --HTTP/SSE--> server --> gateway --> pipeline --> upstream --HTTP/SSE--> provider

A handler (`core.types`) takes a request and returns a stream of events. An upstream makes a
handler; every other stage of the pipeline is a function ``Handler -> Handler`` around it.
`docs/architecture.md` lists the packages and their order: each imports only lower ones.
"""

__version__ = "0.2.0"
