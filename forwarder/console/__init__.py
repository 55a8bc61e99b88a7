"""The console: HTML pages for the operator, and the public landing page.

A page is a view function, a template in ``templates/console/`` and, if it needs one, a script in
``static/``. Pages are rendered on the server; htmx replaces parts of them. Third-party scripts are
vendored in ``static/vendor/`` (see ``VENDORED.md`` there), so that no page loads anything from
another host.

- `blueprint.py`: the blueprint, the check of access, the security headers.
- `session.py`: signing in with an administrator key, and the session cookie.
- `landing.py`: ``GET /`` for browsers.
- `observed_call.py`: runs a request through the application and reports the events of both sides.
- `answer_events.py`: splits answers into events, shortens them and reads their parts.
- one module for each other page; `code_snippets.py` writes the code that the playground shows.

Prompts, answers and errors of upstreams are untrusted input. Templates escape them (Jinja's
autoescape), scripts set them as ``textContent``, and the Content-Security-Policy allows neither
inline scripts nor other hosts.
"""
