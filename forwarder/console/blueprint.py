"""The console's blueprint: access, security headers, error pages, signing in.

Each module with pages adds its views to `blueprint`; `forwarder.app` imports all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from io import BytesIO
from typing import Any, NamedTuple

from flask import (
    Blueprint,
    Response,
    make_response,
    redirect,
    render_template,
    stream_template,
    url_for,
)
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as Redirect
from werkzeug.wsgi import LimitedStream

from forwarder import __version__
from forwarder.console.session import (
    has_session,
    require_operator,
    require_same_origin,
    sign_in,
    sign_out,
)
from forwarder.context.client_identity import normalize_address
from forwarder.core.errors import ForwarderError, NotFound, RateLimited, TooLarge, Unauthorized
from forwarder.server import request_hooks
from forwarder.server.extension import get_request, get_services
from forwarder.server.request_hooks import convert_http_error

blueprint = Blueprint(
    "console",
    __name__,
    url_prefix="/console",
    template_folder="templates",
    static_folder="static",
)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

OPEN_ENDPOINTS = ("console.show_sign_in", "console.start_session")
"""Endpoints that need no session."""

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")

MAX_FORM_BYTES, MAX_OPEN_FORM_BYTES = 2**18, 2**12
"""Size limits of a form, after and before signing in."""

MAX_FORM_FIELDS = 1000
"""Fields of a form. A form of 256 kB with only tiny fields would take 0.15 s to parse."""

FAILURE_SECONDS = 0.5
"""Delay before a wrong key is answered. Meanwhile the worker checks no other key from the same
network, so that parallel guesses are not faster."""

_guessing_networks: set[str] = set()


class NavigationEntry(NamedTuple):
    """A page in the navigation: its endpoint and its title."""

    endpoint: str
    title: str


NAVIGATION = (
    NavigationEntry("console.list_exchanges", "Live"),
    NavigationEntry("console.show_playground", "Playground"),
    NavigationEntry("console.list_upstreams", "Upstreams"),
    NavigationEntry("console.show_usage", "Usage"),
    NavigationEntry("console.list_keys", "Keys"),
)
"""The pages, in the order of the navigation."""


def render_page(template: str, **values: Any) -> Response:
    """Render a template of the console with the values that every page needs."""
    return make_response(render_template(f"console/{template}", **collect_page_values(), **values))


def is_part_request() -> bool:
    """Return whether htmx asks for a part of a page; browsers without scripts get whole pages."""
    return "HX-Request" in get_request().headers


def stream_page(template: str, **values: Any) -> Response:
    """Like `render_page`, but send the page piece by piece, as iterators in ``values`` yield."""
    return Response(stream_template(f"console/{template}", **collect_page_values(), **values))


def collect_page_values() -> dict[str, Any]:
    """Return the values that every page needs."""
    return {
        "version": __version__,
        "navigation": NAVIGATION,
        "endpoint": get_request().endpoint,
        "is_signed_in": has_session(get_services().settings),
        "has_console": get_services().settings.console,
    }


def protect_page(response: Response) -> Response:
    """Add the headers that keep other sites and hostile content away from a page."""
    headers = response.headers
    headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"  # "no-referrer" makes forms send "Origin: null"
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    if get_request().endpoint != "console.static":
        headers["Cache-Control"] = "no-store"  # pages contain prompts
    return response


blueprint.after_request(protect_page)


@blueprint.before_request
def check_access() -> Response | Redirect | None:
    """Let only operators see pages; browsers without a session are sent to the sign-in page."""
    request_hooks.current_context().log_level = logging.DEBUG
    endpoint = get_request().endpoint
    if endpoint == "console.static":  # the landing page needs these files too
        return None
    if not get_services().settings.console:
        raise NotFound("The console is disabled: FORWARDER_CONSOLE is false.")
    if endpoint in OPEN_ENDPOINTS:
        return None
    try:
        require_operator()
    except Unauthorized:
        if get_request().method != "GET" or is_part_request():
            raise
        return redirect(url_for("console.show_sign_in", next=get_request().full_path))
    return None


@blueprint.before_request
def limit_form() -> None:
    """Limit the size of a form, which is parsed as a whole. Runs after `check_access`."""
    flask_request = get_request()
    if flask_request.mimetype not in FORM_TYPES:
        return
    limit = MAX_OPEN_FORM_BYTES if flask_request.endpoint in OPEN_ENDPOINTS else MAX_FORM_BYTES
    data = LimitedStream(flask_request.stream, limit + 1, is_max=True).read()
    if len(data) > limit:
        raise TooLarge(f"The form is larger than {limit} bytes.")
    # Flask limits the parts of other forms.
    if flask_request.mimetype == FORM_TYPES[0] and data.count(b"&") >= MAX_FORM_FIELDS:
        raise TooLarge(f"The form has more than {MAX_FORM_FIELDS} fields.")
    flask_request.stream = BytesIO(data)


@blueprint.errorhandler(Exception)
def show_error(error: Exception) -> Response:
    """Render any exception as a page, or as a fragment for a part of a page."""
    if isinstance(error, HTTPException):
        error = convert_http_error(error)
    failure = request_hooks.current_context().record_failure(error)
    return render_failure(failure)


def render_failure(failure: ForwarderError) -> Response:
    """Render an error: a page with status, or a fragment that htmx puts into the page."""
    response = render_page(
        "error_part.html" if is_part_request() else "error.html",
        status=failure.status,
        reason=HTTPStatus(failure.status).phrase,
        message=failure.message,
        param=failure.param,
    )
    response.status_code = failure.status
    response.headers.extend(failure.headers)
    return response


@blueprint.get("")
def show_first_page() -> Redirect:
    """Go to the first page of the navigation."""
    return redirect(url_for("console.list_exchanges"))


# -- signing in -----------------------------------------------------------------------------------


@blueprint.get("/sign-in")
def show_sign_in() -> Response | Redirect:
    """Show the form for an administrator key, if there are such keys."""
    settings = get_services().settings
    if not settings.admin_keys or has_session(settings):
        return redirect(find_next_page())
    return render_page("sign_in.html", next=find_next_page(), failure=None)


@blueprint.post("/sign-in")
def start_session() -> Response | Redirect:
    """Check the key, start a session and go to the page that was asked for."""
    require_same_origin(get_services().settings)
    response = redirect(find_next_page())
    try:
        with slow_down_guesses(get_request().remote_addr):
            sign_in(response, read_form_field("key"))
    except (Unauthorized, RateLimited) as failure:
        page = render_page("sign_in.html", next=find_next_page(), failure=failure.message)
        page.status_code = failure.status
        return page
    return response


@contextmanager
def slow_down_guesses(address: str | None) -> Iterator[None]:
    """Delay the error for a wrong key.

    Raises RateLimited while another key from the same network is checked or delayed.
    """
    network = normalize_address(address)
    if network in _guessing_networks:
        raise RateLimited(
            "Another key of your network is being checked. Try again.", kind="requests"
        )
    _guessing_networks.add(network)
    try:
        yield
    except Unauthorized:
        time.sleep(FAILURE_SECONDS)  # gevent.sleep would leave an event loop behind in each thread
        raise
    finally:
        _guessing_networks.discard(network)


@blueprint.post("/sign-out")
def end_session() -> Redirect:
    """End the session of this browser."""
    response = redirect(url_for("landing.show_landing"))
    sign_out(response)
    return response


def find_next_page() -> str:
    """Return the page to go to after signing in: a path of the console, never another host."""
    wanted = get_request().args.get("next", "")
    is_own = wanted.startswith("/console") and not wanted.startswith("/console/sign-")
    return wanted if is_own else url_for("console.show_first_page")


def read_form_field(name: str) -> str:
    """Return a field of the form, without space at its ends, or ``""``."""
    return get_request().form.get(name, "").strip()
