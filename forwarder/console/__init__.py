"""The console: HTML pages for the operator, and the public landing page.

Pages are rendered on the server. htmx replaces parts of them; browsers without scripts get whole
pages, except the playground, which needs scripts. Not here: the data and the rules of the pages. A
form of a key or a model (`keys.py`, `models.py`) becomes the body of a request of the API, and the
same object validates it (`client_keys/registry.py`, `models/registration.py`). Exchanges come from
`observability/capture`, usage from `usage/report.py`, the preview from `Gateway.preview`, health
from `models/upstream_health.py`.

**Access** (`blueprint.py`, `session.py`). All pages are views of one blueprint. Before a view,
`check_access`, which lets `OPEN_ENDPOINTS` and static files pass, and then `limit_form` run. With
``FORWARDER_ADMIN_KEYS`` a browser signs in once and gets an encrypted cookie, and programs may send
an administrator key; without that setting only local requests pass. Requests other than ``GET`` and
``HEAD`` must not come from a page of another origin. After a view, `protect_page` adds the security
headers. Each exception becomes a page, or a fragment for a request of htmx. `landing.py` has a
blueprint of its own and needs no key; its ``GET /`` gives programs Ollama's greeting.

**A captured exchange.** `exchanges.py` finds the record, stored or still running, and in a native
thread calls `build_view` (`exchange_view.py`). `exchange_events.py` turns the record into a list of
`Entry`: one event of one side, with the parts that `answer_events.py` reads from it by protocol
(text, reasoning, calls, usage, errors). From the entries come the rows, the phases and the joined
answers. `exchange_comparison.py` puts each upstream request beside the client's, with the
dispositions of the dry run. `exchange_text.py` cuts texts and JSON to the size of a page.
`exchange_stream.py` sends changed rows of the list of exchanges to the pages that show it.

**A request that a page sends.** `playground.py` makes a `CallRequest` from the text and the choices
of the form; `replay.py` makes one from a record. `ObservedCall` (`observed_call.py`) runs it
through the whole WSGI application, marked as an `OperatorCall` (`server/operator_call.py`), so it
is limited, counted and captured like a client's request. The call reports the answer to the client,
and its recorder the requests to upstreams and their answers; `stream_events` yields both as JSON. A
replay of recorded answers runs in a separate application in a native thread
(`server/replay_application.py`).

**Upstreams.** The page shows the last known states, because a check may take seconds; the browser
then loads each state, which checks the upstream. `upstream_usage.py` is loaded in the same way.

**Rules:**

- Prompts, answers, errors of upstreams and names are untrusted. Jinja escapes HTML; templates have
  no ``safe`` filter and no inline script or style (`tests/console/test_blueprint.py`). Python cuts
  texts and makes control characters visible. Scripts set ``textContent``; they parse only HTML that
  the server has rendered (``live.js``, htmx).
- The Content-Security-Policy allows only this host, and data URLs of images. Third-party scripts
  are in ``static/vendor``; `tests/console/test_blueprint.py` compares them with ``VENDORED.md``
  there.
- Pages show no secret. A new client key is shown once; stored keys of models never reach the
  browser. Events of `ObservedCall` are redacted, also with the keys of registered models.
- Records may lack any field or have any type in it; `exchange_view.py`, `exchange_events.py` and
  `exchange_comparison.py` are pure and accept that.
- Reading captures and formatting long JSON blocks, so both run in native threads.
- `ObservedCall` needs a greenlet and a context of its own: Flask would share ``g`` of the page with
  the request. A slow reader slows the request down, and closing the generator cancels it.
- A worker serves at most `MAX_STREAMS` streams of exchanges and `MAX_PROBES` probes. States and
  histories of upstreams are those of the worker that answers.

**To add a page:** a module with views on `blueprint` (add it to `CONSOLE_PAGES` in `app.py`, which
imports it), a template in ``templates/console`` that extends ``base.html``, if needed a script in
``static``, a row in `NAVIGATION`, a line in ``docs/console.md`` and tests in ``tests/console``. If
the module is not imported, ``url_for`` fails for its row in `NAVIGATION`. A file that no pattern
under ``package-data`` in ``pyproject.toml`` covers needs one (`tests/test_packaging.py`). **To show
another API:** a reader in ``_READERS`` of `answer_events.py`, a row in `APIS` of `playground.py`,
fields that tell its requests from others in `detect_api`, and a file in ``samples``;
`tests/console/test_playground.py` sends each sample and reads its answer.
"""
