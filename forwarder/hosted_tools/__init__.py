"""Runs hosted tools (``mcp``, ``web_search``) for upstreams that do not run them.

Design:

- **One stage of the pipeline** (`responses_loop.py`), on the level of the Responses protocol and
  outside of translation, so it works the same over Chat and Responses upstreams. It offers hosted
  tools to the model as functions; when the model calls them it runs them and asks again, until the
  model answers or calls a tool of the client. Tools that the upstream runs itself, or that may not
  run here, pass.
- **Kinds** (`tool_kind.py`): each kind of hosted tools is a class in its own module and a line in
  the table of `kind_table.py`. It knows its tools, its items, and its names in ``tool_choice`` and
  ``include``; `first_request.py` asks the kinds for the functions of a request.
- **One response** (`response_merger.py`): the events of all rounds are numbered anew as one stream
  with one beginning and one end. A call of a hosted function is shown as the item of its kind
  (`hosted_function.py`), with that kind's events; calls of one round run at the same time and are
  shown one after the other. Usage is summed. A whole answer has only its terminal event.
- **No state**: the next turn is made from the items that the client (or the storage) carries.
  Item ids hold the round and the upstream's call id, so `history.py` makes the same function calls
  and outputs again, parallel where they were parallel, and the upstream's prompt cache matches.
- **Mixed turns**: hosted calls are run, calls of the client's tools are handed over, and the
  response ends. An approval request ends it too; the approved call is run first in the next turn.
- **A failure of a tool is a result**: an item with ``error`` and an output that the model sees. A
  server that cannot list its tools is named to client and model. Only malformed requests are
  refused, with a 400 that names the parameter.
- **MCP** (`mcp_client.py`, `mcp_session.py`) by the official SDK, in one asyncio loop in a native
  thread (`asyncio_thread.py`). The loop waits with the system's selector and never enters gevent's
  hub; greenlets are woken by an async watcher. Sessions belong to a response; those of commands
  (`mcp_stdio.py`, the operator's only) are shared. Lists of tools are cached by server and
  credentials.
- **Web search** (`web_search.py`): three functions (search, open a page, find in it) over the
  operator's engine (`web_search_backends.py`), an upstream that searches (`upstream_search.py`) or
  a tool of an MCP server (`mcp_search.py`), and the guarded fetcher (`page_reader.py`). Links of
  the answer to pages that the model has seen become ``url_citation`` annotations (`citations.py`).
  Codex's own search (`standalone_search.py`) uses the same engine and reader.
- **Images** (`image_generation.py`): one function, by the images API of an upstream or a model that
  makes images (`image_makers.py`). The client gets the image, the model a note.
- **Guarded**: clients' URLs are resolved once, by the address guard, and the connection goes to the
  resolved address (`mcp_http.py`). Number, size and time of everything are bounded. Secrets of
  servers are in no item, error or log.
"""

from forwarder.hosted_tools.chat_loop import with_hosted_chat_tools, with_search_parameter_names
from forwarder.hosted_tools.dropped_tools import with_dropped_tools
from forwarder.hosted_tools.first_request import LoopContext
from forwarder.hosted_tools.mcp_client import McpClient, McpLimits
from forwarder.hosted_tools.mcp_server import McpServer, parse_server_file
from forwarder.hosted_tools.mcp_tools import McpPolicy
from forwarder.hosted_tools.page_reader import PageReader
from forwarder.hosted_tools.responses_loop import (
    with_extra_tools,
    with_hosted_tools,
    with_unstored_rounds,
)
from forwarder.hosted_tools.web_search import WebSearch
from forwarder.hosted_tools.web_search_backends import BACKENDS, SearchEngine

__all__ = [
    "BACKENDS",
    "LoopContext",
    "McpClient",
    "McpLimits",
    "McpPolicy",
    "McpServer",
    "PageReader",
    "SearchEngine",
    "WebSearch",
    "parse_server_file",
    "with_dropped_tools",
    "with_extra_tools",
    "with_hosted_chat_tools",
    "with_hosted_tools",
    "with_search_parameter_names",
    "with_unstored_rounds",
]
