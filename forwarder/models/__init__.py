"""Model names: routing to upstreams, model lists, and models registered at run time.

Elsewhere are the attempts at the routes of a name (`upstream/resilience/failover.py`), defaults of
a registered model's parameters (`protocols/model_defaults.py`), profiles of providers
(`providers`), the rows of registered models (`storage/repositories/registered_models.py`), and the
models that a client's key allows (`ClientGrants.allows_model`; routes and `UpstreamCalls` ask it).

**A name in a request**: `UpstreamCalls.find_routes` asks `Router.list_routes`. The docstring of
`router.py` has the order of the rules. The result is a list of `Route`s: the settings of the
upstream, its protocol, its name for the model, and defaults. The first one is followed by the
fallbacks of its upstream, or by the other members of a group. The default rule depends on the
client's protocol, so one name may lead clients of different APIs to different upstreams.

**A registered model** (`registered_model.py`) is made of the body of Ollama's ``/api/create``:

1. `read_create_request` validates it. `ModelRegistration.create` (`registration.py`) checks the
   name and the address of the host, and, unless ``verify`` is false, probes the remote over
   connections of its own (`health_probe.py`). A model whose probe fails is not stored.
2. `registry.py` encrypts key, headers and query, stores a `ModelRow`, and announces the change.
3. Each worker reads the change version for every lookup, and reloads all models after a change. It
   closes the upstreams of models that were removed or replaced (``on_drop``).

Without a host, it makes another name with defaults of its own: for a registered model a full copy
with host and secrets (`copy_model`), for a configured model one that has no host.

**Lists**: `Catalog` (`catalog.py`) merges the configured and registered names of the router with
the model lists of the upstreams, which it caches for FORWARDER_READY_TTL. A model is listed as
``upstream/model``, unless its plain name leads clients of both upstream APIs to it. If it does so
for one API, both names are listed. The same data is shown as OpenAI's list, as entries of Codex's
catalog (`codex.py`), and as Ollama's answers (`ollama_views.py`). ``GET /ready`` tells by the lists
if an upstream is reachable.

**Codex** requests helper models that its user did not choose. `Router._find_stand_in` replaces
those that the settings do not name: by FORWARDER_CODEX_HELPER_MODEL, or by the default model if the
default upstream lacks them. `Catalog.has_codex_helper` knows that; `services.py` connects the two.
`codex_headers.py` makes the headers that Codex reads.

**Health**: `upstream_health.py` probes each upstream and remote by its model list. If neither the
list nor an earlier probe has shown the model of a remote, it sends a small request, at most once
per FORWARDER_HEALTH_ASK_INTERVAL, because this costs tokens. Each worker has its own results.

Rules:

- Names with and without ``:latest`` are the same, everywhere: use `strip_tag` and `add_tag`.
- The router caches only routes of the settings. Registered models and model lists may change, so
  `_find_configured_routes` must not depend on them.
- A `RegisteredModel` is never changed. A reload keeps the objects of unchanged models:
  `PerUpstream` knows an upstream by the identity of its settings, and would otherwise open new
  connections.
- Secrets (`_SECRET_FIELDS`) must be in no repr, view, log or error. A changed model may keep them
  only for the same origin. If they cannot be decrypted, the model is locked and requests fail.
- Hosts need a public address and https, unless FORWARDER_REMOTE_ALLOW lists them. The address is
  checked again for each connection (`services.py`).
- A registered model is never the stand-in of a helper model: its remote could approve commands of
  other users. It gets such requests only if it is registered under the helper's own name.
- While the database is unavailable, cached models are used. A lookup waits for a reload only
  briefly, and not at all after a failed one (`_RETRY_SECONDS`).
- Lists of upstreams in key passthrough mode are cached for each client. Routing accepts outdated
  lists; only the first lookup waits.
- A failed list is an entry of the result, and does not hide the others. The ETag of Codex's catalog
  ignores the lists, which workers fetch at different times.

To add

- a routing rule: change `Router.list_routes` or `_choose_upstream`, and the docstring of
  `router.py`, and let `list_models` and `find_owner` know the names. `tests/models/test_router.py`
  tests the order.
- a type of remote: a row of `REMOTE_TYPES`, and `docs/registry.md`. Console, command and API
  document follow.
- a field of a registered model: `_ACCEPTED_FIELDS`, its reader, the field, `_PUBLIC_FIELDS` or
  `_SECRET_FIELDS` (then also `SECRET_FIELDS` in `registration.py`), and `copy_model` if a copy may
  override it; then `cli/models.py`, `console/models.py` with its form, `openapi/ollama_schemas.py`
  (a test compares it with `_ACCEPTED_FIELDS`) and `docs/registry.md`. With the field in its
  ``BODY``, `tests/models/test_registered_model.py` fails if it is not stored.
- a field of Codex's catalog: `_CONSTANT_FIELDS` or `make_entry` in `codex.py`. A field that
  `make_entry` takes from a setting needs the setting in `digest_settings`.
"""
