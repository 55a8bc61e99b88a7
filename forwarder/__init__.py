"""A forwarder between OpenAI's two APIs, in both directions, and to Ollama's clients.

    client ──HTTP/SSE──▶ routes ──▶ bridge ──▶ call ──▶ routes ──HTTP/SSE──▶ client
                                      │
                    for each route until one has begun to answer, call -> call:
     storing · wishes · memory · compaction · media · emulations · translation · recall · retries
                                      ▼
                            upstream (official openai SDK)

A *call* (`core/types.py`) takes a request and returns a stream of events.  The upstream makes
one; everything else is a function ``call -> call`` wrapped around it.

- `routes/` read requests and write answers; they know Flask and nothing else does.
- `bridge.py` holds what outlives a request, and leads each one to the upstreams for it; `path.py`
  is the path to one of them: which wrappers, in which order.
- `translate/` is pure: plain JSON in, plain JSON out.  `responses_over_chat` serves a Responses
  client over a Chat upstream, `chat_over_responses` the other way round; with the same protocol
  on both sides the call is returned as it is, so passing through loses nothing.
  `ollama_over_chat` serves an Ollama client over either of the calls that a Chat client would get.
- `reasoning_style.py` decides in which style a client is shown reasoning.
- `upstream.py` is the only room that knows the SDK; nothing but JSON leaves it.
- `profiles/` holds what providers do differently, applied where a request leaves.
- `emulations/` make up for what one API has and the other lacks; `media/` fetches and uploads;
  `compaction/` makes long conversations short; `recall/` gives chat clients' reasoning back.
- `resilience/` tries again, waits, limits and goes elsewhere, until the first byte of an answer.
- `registry/` has the models that are registered while it runs; `routing.py` asks it by name.
- `watching/` and `ratelimit.py` are told of exchanges by `exchange.py`, and count, trace and limit.
- `capture/` keeps whole exchanges for debugging, and sends one again.
- `state/` remembers for clients, around calls and streams; `store/` is the database under it.
  Where there is none `memory.py` knows recent items, and `chain.py` a WebSocket's turns anyhow.
- `dry_run.py` tells what would be asked; `demo/` answers where no upstream is configured.  `cli/`
  has the `forwarder` command.
- `sse.py`, `ndjson.py` and `network/` know bytes, not meaning.
- `errors.py` names every failure by whose fault it is; `config/` alone reads the environment.
"""

__version__ = "0.2.0"
