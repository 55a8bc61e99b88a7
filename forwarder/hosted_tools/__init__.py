"""Runs hosted tools (such as ``mcp`` and ``web_search``) for upstreams that do not run them.

Design:

- **The loop** is one stage of the pipeline. `responses_loop.py` works with Responses requests,
  before a translation to Chat, so it is the same for Chat and Responses upstreams. It offers hosted
  tools to the model as functions. When the model calls them, it runs them and asks the model again,
  until the model answers or calls a tool of the client. `chat_loop.py` does the same between a Chat
  client and a Chat upstream. `dropped_tools.py` removes tools that nothing can run.
- **Kinds** (`tool_kind.py`): each kind of hosted tools is a class in its own module and a row of
  the table in `kind_table.py`. It knows its tools, its items, and its names in ``tool_choice`` and
  ``include``. `request_preparation.py` asks the kinds for the functions of a request, and
  `tool_choice.py` converts ``tool_choice``. `tool_services.py` builds the kinds that the settings
  allow.
- **One response** (`response_merger.py`): the events of all rounds are renumbered as one stream. A
  call of a hosted function is shown as the item of its kind (`hosted_function.py`), with the events
  of that kind. Calls of one round run at the same time and are shown one after the other. Usage is
  summed. A non-streamed answer has only its terminal event.
- **No state**: the next turn is built from the items that the client sends back or that storage
  returns. Item ids contain the round and the upstream's call id. From them `history.py` rebuilds
  the same function calls and outputs, in parallel where they were parallel, so that the upstream's
  prompt cache matches.
- **Mixed turns**: hosted calls are run, calls of the client's tools are passed to the client, and
  the response ends. An approval request also ends it; the approved call is run first in the next
  turn.
- **Tool failures are results**: an item with ``error``, and an output that the model sees. If a
  server cannot list its tools, the client and the model are told so. Only malformed requests are
  rejected, with status 400 and the name of the parameter.
- **MCP** (`mcp_kind.py`, `mcp_client.py`, `mcp_session.py`) uses the official SDK, in one asyncio
  loop in a native thread (`asyncio_thread.py`). The loop waits with the system's selector and never
  enters gevent's hub; an async watcher wakes greenlets. Sessions belong to a response. Sessions
  with commands (`mcp_stdio.py`), which only the operator can configure, are shared. Lists of tools
  are cached by server and credentials. `mcp_mapped_tools.py` maps hosted tools to tools of MCP
  servers.
- **Web search** (`web_search.py`): three functions (search, open a page, find text in a page). They
  use the operator's search engine (`web_search_backends.py`), an upstream with a web search
  (`web_search_upstream.py`) or a tool of an MCP server (`web_search_mcp.py`), and read pages
  through the guarded fetcher (`page_reader.py`). Links in the answer to pages that the model has
  seen become ``url_citation`` annotations (`citations.py`). Codex's own search (`codex_search.py`)
  uses the same engine and page reader.
- **File search** (`file_search.py`) searches the vector stores of the forwarder.
- **Images** (`image_generation.py`): one function. It uses the images API of an upstream, or a
  model that generates images (`image_makers.py`). The client receives the image, the model a note.
- **Limits**: clients' URLs are resolved once, by the address guard, and the connection goes to the
  resolved address (`mcp_http.py`). The number, size and duration of all operations are limited.
  Secrets of servers appear in no item, error or log.
"""

from forwarder.hosted_tools.chat_loop import with_hosted_chat_tools, with_search_parameter_names
from forwarder.hosted_tools.dropped_tools import with_dropped_tools
from forwarder.hosted_tools.mcp_client import McpClient, McpLimits
from forwarder.hosted_tools.mcp_server import McpServer, parse_server_file
from forwarder.hosted_tools.mcp_tools import McpPolicy
from forwarder.hosted_tools.page_reader import PageReader
from forwarder.hosted_tools.request_preparation import LoopContext
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
