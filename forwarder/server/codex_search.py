"""``/v1/alpha/search``: the search that Codex calls itself, for its function ``web.run``."""

from __future__ import annotations

from flask import Blueprint, Response

from forwarder.core.errors import NotFound, ShuttingDown
from forwarder.core.in_flight_requests import ShutdownInterrupt
from forwarder.hosted_tools.codex_search import StandaloneSearch, read_search_request
from forwarder.server import request_hooks
from forwarder.server.extension import get_services
from forwarder.server.serving import json_answer, read_json_body

blueprint = Blueprint("standalone_search", __name__)


@blueprint.post("/alpha/search")
def run_search() -> Response:
    """Search the web, open pages and find text in them, as the commands in the body say."""
    context = request_hooks.current_context()
    context.route = "search"
    request_hooks.authenticate(context)
    try:
        request = read_search_request(read_json_body(context))
        search = get_services().hosted_tools.find_search(context.account_id or "")
        if search is None:
            raise NotFound(
                "No web search is configured here: FORWARDER_WEB_SEARCH is not set.",
                code="web_search_disabled",
            )
        request_hooks.watch_disconnect(context)
        run = StandaloneSearch(search, request, context, context.body_memory)
        return json_answer({"output": run.run()})
    except ShutdownInterrupt:  # report the shutdown to the client as an error
        raise ShuttingDown from None
