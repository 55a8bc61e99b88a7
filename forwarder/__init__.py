"""A forwarder between OpenAI's two APIs, in both directions, and to Ollama's clients.

    client ──HTTP/SSE──▶ routes ──▶ bridge ──▶ call ──▶ routes ──HTTP/SSE──▶ client
                                      │
          call -> call:  wishes · memory · media · emulations · translation · honest ending
                                      ▼
                            upstream (official openai SDK)

A *call* (`translate/call.py`) takes a request and returns a stream of events.  The upstream makes
one; everything else is a function ``call -> call`` wrapped around it.

- `routes/` read requests and write answers; they know Flask and nothing else does.
- `bridge.py` is the path of a request: which upstream, which wrappers, in which order.
- `translate/` is pure: plain JSON in, plain JSON out.  `responses_over_chat` serves a Responses
  client over a Chat upstream, `chat_over_responses` the other way round; with the same protocol
  on both sides the call is returned as it is, so passing through loses nothing.
  `ollama_over_chat` serves an Ollama client over either of the calls that a Chat client would get.
- `upstream.py` is the only room that knows the SDK; nothing but JSON leaves it.
- `profiles/` holds what providers do differently, applied where a request leaves.
- `emulations/` make up for what one API has and the other lacks; `media/` fetches and uploads.
- `registry/` has the models that are registered while it runs; `routing.py` asks it by name.
- `watching/` and `ratelimit.py` are told of exchanges by `exchange.py`, and count, trace and limit.
- `capture/` keeps whole exchanges for debugging, and sends one again.
- `state/` remembers for clients, around calls and streams; `store/` is the database under it.
- `sse.py`, `ndjson.py` and `network/` know bytes, not meaning.
- `errors.py` names every failure by whose fault it is; `config/` alone reads the environment.
"""
