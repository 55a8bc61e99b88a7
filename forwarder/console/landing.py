"""``GET /``: a landing page for browsers, Ollama's greeting for all other clients.

The page needs no key. Like ``/ready``, it names the upstreams and whether they can be reached.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from flask import Blueprint, Response

from forwarder.console.blueprint import protect_page, render_page, show_error
from forwarder.console.playground import API_BY_PROTOCOL, MODEL_PLACEHOLDER, find_example_model
from forwarder.core.types import Json
from forwarder.server import request_hooks
from forwarder.server.docs import find_site
from forwarder.server.extension import get_request, get_services
from forwarder.server.health import describe_upstreams
from forwarder.server.request_hooks import build_public_address

blueprint = Blueprint("landing", __name__)
blueprint.after_request(protect_page)
blueprint.register_error_handler(Exception, show_error)

GREETING = "Ollama is running"
"""Some clients of Ollama check for these exact words."""


class ClientSetup(NamedTuple):
    """What to enter in a client, and where. ``page`` is its page in the documentation.

    ``{base}`` in ``text`` stands for the forwarder's address.
    """

    client: str
    place: str
    text: str
    page: str


CLIENT_SETUPS = (
    ClientSetup("Codex CLI", "~/.codex/config.toml", 'openai_base_url = "{base}/v1"', "codex"),
    ClientSetup("Claude Code", "environment", "ANTHROPIC_BASE_URL={base}", "claude-code"),
    ClientSetup("Agents SDK", "environment", "OPENAI_BASE_URL={base}/v1", "agents-sdk"),
    ClientSetup("Cherry Studio", "API host", "{base}", "cherry-studio"),
    ClientSetup("Open WebUI", "URL of an OpenAI API connection", "{base}/v1", "open-webui"),
    ClientSetup("Cline, aider, LangChain", "base URL", "{base}/v1", "index"),
    ClientSetup("Ollama clients", "environment", "OLLAMA_HOST={base}", "ollama"),
)

EXAMPLES = (
    ("Chat Completions", "chat/completions", '"messages": [{"role": "user", "content": "Hello"}]'),
    ("Responses", "responses", '"input": "Hello"'),
)
"""API, path and body of the example requests, which are streamed."""


@blueprint.get("/")
def show_landing() -> Response:
    """Return the landing page to browsers, Ollama's greeting to other clients.

    ``?check`` asks the upstreams first, for browsers without scripts.
    """
    request_hooks.current_context().log_level = logging.DEBUG
    if not prefers_html():
        response = Response(GREETING, mimetype="text/plain")
        response.headers["Vary"] = "Accept"
        return response
    settings = get_services().settings
    base = build_public_address(settings.public_url, get_request())
    page = render_page(
        "landing.html",
        base=base,
        needs_key=get_services().client_keys.are_required(),
        is_demo=settings.demo,
        setups=[each._replace(text=each.text.format(base=base)) for each in CLIENT_SETUPS],
        examples=[(title, make_curl(base, path, body)) for title, path, body in EXAMPLES],
        has_model=find_example_model() != MODEL_PLACEHOLDER,
        states=list_states() if "check" in get_request().args else None,
        has_docs=find_site(settings) is not None,
    )
    page.headers["Vary"] = "Accept"
    return page


@blueprint.get("/landing/upstreams")
def show_states() -> Response:
    """Return the part of the landing page with the states of the upstreams.

    It is a request of its own, because unreachable upstreams make it wait for seconds.
    """
    request_hooks.current_context().log_level = logging.DEBUG
    return render_page("landing_upstreams.html", states=list_states())


def list_states() -> list[tuple[str, list[str], Json]]:
    """Return name, APIs and state of each upstream, as ``/ready`` shows it without a key."""
    services = get_services()
    apis = {
        each.name: [API_BY_PROTOCOL[api].title for api in sorted(each.apis)]
        for each in services.settings.upstreams
    }
    return [(name, apis[name], state) for name, state in describe_upstreams(services).items()]


def prefers_html() -> bool:
    """Return whether the client prefers HTML; ``*/*`` is no preference."""
    accepted = get_request().accept_mimetypes
    return (
        "text/html" in accepted.values()
        and accepted.best_match(["text/html", "text/plain"]) == "text/html"
    )


def make_curl(base: str, path: str, body: str) -> str:
    """Return the command that sends a streamed request of the demo model."""
    lines = [f"curl -sN {base}/v1/{path}", "-H 'Content-Type: application/json'"]
    if get_services().client_keys.are_required():
        lines.append('-H "Authorization: Bearer $FORWARDER_KEY"')
    lines.append(f'-d \'{{"model": "{find_example_model()}", {body}, "stream": true}}\'')
    return " \\\n  ".join(lines)
