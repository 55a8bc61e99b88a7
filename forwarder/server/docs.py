"""``GET /docs``: the documentation site, if it was built into ``FORWARDER_DOCS_DIR``.

It requires no client key, since it contains no data of this installation.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from pathlib import Path

from flask import Blueprint, Response, redirect, send_from_directory, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.security import safe_join
from werkzeug.wrappers import Response as Redirect

from forwarder.config.settings import Settings
from forwarder.core.errors import NotFound
from forwarder.server import request_hooks
from forwarder.server.extension import get_services

blueprint = Blueprint("docs", __name__)

_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)

# Inline styles are allowed: the site aligns table columns with them.
_POLICY = (
    "default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)


@blueprint.before_request
def log_at_debug_level() -> None:
    """Log at DEBUG: a page consists of many files, each with its own log record."""
    request_hooks.current_context().log_level = logging.DEBUG


@blueprint.get("/docs")
def redirect_to_first_page() -> Redirect:
    """Redirect to the first page, from which the relative links of the site work."""
    _find_folder()
    return redirect(url_for("docs.serve_page", path="index.html"))


@blueprint.get("/docs/<path:path>")
def serve_page(path: str) -> Response:
    """Return a file of the site. Raises NotFound for a missing file or one outside the folder."""
    folder = _find_folder()
    try:
        response = send_from_directory(folder, path)
    except HTTPException:
        raise NotFound(f"The documentation has no page '{path[:64]}'.") from None
    if response.mimetype == "text/html":
        page = safe_join(str(folder), path)
        scripts = [] if page is None else _hash_inline_scripts(Path(page).read_bytes())
        policy = _POLICY.format(scripts=" ".join(["'self'", *scripts]))
        response.headers["Content-Security-Policy"] = policy
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def find_site(settings: Settings) -> Path | None:
    """Return the folder of the built site, or None.

    The path is absolute, because Flask resolves relative ones against the package.
    """
    name = settings.docs_dir
    if name is None or not (Path(name) / "index.html").is_file():
        return None
    return Path(name).absolute()


def _find_folder() -> Path:
    folder = find_site(get_services().settings)
    if folder is None:
        raise NotFound(
            "The documentation is not built. Run 'mkdocs build' in the forwarder's directory or "
            "set FORWARDER_DOCS_DIR to the folder of the site."
        )
    return folder


def _hash_inline_scripts(page: bytes) -> list[str]:
    """Return the policy sources that allow the inline scripts of the page."""
    digests = (hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(page))
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
