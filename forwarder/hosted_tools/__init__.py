"""Runs hosted tools (such as ``mcp`` and ``web_search``) for upstreams that do not run them.

The stages are in the list of `pipeline/pipeline.py`. `pipeline/attempt.py` decides for each attempt
which tools the upstream runs itself (``native_tools``). The loop runs those of the others that the
settings allow (``loop_context``).

**The loop** offers the hosted tools to the model as functions. When the model calls them, it runs
them and asks the model again, in a further round, until the model answers, calls a tool of the
client, or needs an approval; the next turn begins with the approved call. There are two loops:

- `responses_loop.py` works with Responses requests: for a Responses client before the translation,
  so that it is the same over Chat and Responses upstreams, and for a Chat client over a Responses
  upstream after it.
- `chat_loop.py` works between a Chat client and a Chat upstream. The client gets the texts of all
  rounds as one message, and sees no calls.

Messages and Ollama clients get one of them with the pipeline that carries them. `dropped_tools.py`
removes tools that nothing can run, for Responses upstreams; the translation to Chat does so itself.

**A request** in `responses_loop.py` (`chat_loop.py` shares the first step and the limits):

1. `request_preparation.py` gets functions from each kind (`tool_kind.py`) for its tools.
   `tool_choice.py` converts ``tool_choice``.
2. `history.py` makes function calls and outputs of the hosted items in the input. The id of an item
   (`make_item_id`) contains the round and the call id of the upstream, so parallel calls become
   parallel again, and the prompt cache of the upstream matches. A call id that does not match
   `_EMBEDDABLE_CALL_ID` is replaced by the id of the item.
3. `response_merger.py` numbers the events of all rounds as one stream and sums their usage. It
   shows each call as the item of its kind (`hosted_function.py`), with the events of that kind.
   Calls of one round run at the same time and are shown one after the other.
4. In the last of `MAX_ROUNDS` rounds and after `MAX_CALLS` calls, no hosted function may be called.

**Kinds**

- ``mcp``: `mcp_kind.py`, `mcp_client.py`, `mcp_session.py`. The official SDK runs in one asyncio
  loop in a native thread (`asyncio_thread.py`). A session belongs to a response; sessions with
  commands (`mcp_stdio.py`) are shared. Lists of tools are cached by server and credentials.
- ``web_search``: `web_search.py`. It searches by a search engine (`web_search_backends.py`), an
  upstream or an MCP tool, and reads pages by the guarded fetcher (`page_reader.py`). Codex's own
  search (`codex_search.py`) is a route that uses the same parts.
- ``file_search``: the pipeline passes in the search, because vector stores are a higher layer.
- ``image_generation``: the client gets the image, and the model a note.
- Tools that the operator maps to MCP tools (`mcp_mapped_tools.py`) replace the kind of that name.

Links to pages, and ids of files, that the model has seen become annotations (`citations.py`).

Rules:

- Nothing is kept between turns: the next one is built from the items that the client sends back or
  that storage returns. If an item lacks its result, the model gets `UNKNOWN_RESULT`.
- In a round that also calls tools of the client, hosted calls are run only if the client can send
  them back (``keeps_calls``), as Responses clients can. Otherwise the model repeats them in the
  next turn (`postpone_call`).
- A failed call is an item with status ``failed`` or an error, and an output for the model. The
  model is told which tools are missing; a Chat client over Chat finds this in the loss report. Only
  wrong requests are refused, with the name of the parameter.
- A fallback to another upstream must not repeat approved calls: their outcomes are in
  ``ToolRequest.memory``. With ``is_preview``, no server may be called.
- Rounds are not stored by the upstream (`with_unstored_rounds`) and send no idempotency key.
  Requests that tools themselves send to upstreams (`UpstreamAccess`) run no hosted tools.
- Without client keys, no URL of a client is called (``without_urls`` in `tool_services.py`). The
  guard checks the addresses of a URL, and the connection goes to one that it has checked.
- The asyncio loop must not use modules that gevent patches, nor block: use `run_in_native_thread`.
  All other calls run in greenlets (`greenlet_call.py`). All are cancelled if the client leaves.
- Number, size and time of every operation have a limit. Pages and images count in the `BodyMemory`.
  Secrets of servers must be in no item, error or log (`McpServer.hide_secrets`).

To add

- a kind: subclasses of `HostedFunction`, `ToolSet` and `ToolKind` in a module of its own, a row of
  `KIND_BUILDERS`, and a field of `ToolResources` that `tool_services.py` fills from the settings. A
  new name needs a row of `HOSTED_TOOLS` (`protocols/hosted_tool_names.py`), a new item type one of
  `protocols/item_dispositions.py`, and a new value of ``include`` one of `HIDDEN_FIELDS`
  (`storage/include_filter.py`). Describe the kind in `docs/tools.md`.
- a type of calls that the client answers: `CLIENT_CALLS` (`protocols/input_items.py`).
- a search engine: a row of `BACKENDS`, and its name in `SEARCH_ENGINES` of `config/parsers.py`. A
  test compares them.
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
