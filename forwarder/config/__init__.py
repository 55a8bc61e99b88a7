"""Settings from the environment: one declaration each.

Not here: the profiles that ``<NAME>_PROVIDER`` and ``<NAME>_QUIRKS`` select (`providers`), the file
of MCP servers (`hosted_tools/mcp_server.py`), keys of clients and models that are registered at run
time (`client_keys`, `models`), warnings about valid but unsafe settings
(`observability/logging.py`), and the check that gunicorn uses this configuration
(`server/gunicorn_check.py`).

**From the environment to the settings** (`settings.py`):

1. `load_settings` merges the file of ``FORWARDER_DOTENV`` (``.env`` by default) into
   ``os.environ``; variables that are set already win. `Settings.from_env` gets the result.
2. An `EnvironmentReader` strips all values. For each row of `SETTINGS` it takes the text of the
   variable, or else the row's default, and calls the row's parser (`parsers.py`). The result is a
   dict from field to value.
3. `read_upstreams` does the same with `UPSTREAM_SETTINGS` for each name in ``FORWARDER_UPSTREAMS``,
   or for those default names that have an address, a key or a provider with a known address. A
   value that the provider or the upstream's name implies (`IMPLIED_BY_PROVIDER`, `IMPLIED_BY_NAME`)
   replaces the row's default. Without any upstream, the result is the demo.
4. `add_replicas` combines each address with each key. Each pair is an `Endpoint`
   (`upstream_endpoints.py`) with an `UpstreamSettings` of its own; the first one stands for the
   upstream and has the others as ``replicas``. An upstream with one pair has no `Endpoint`.
5. The ``check_…`` methods find unknown variables and compare settings with each other.
   `ConfigError` reports all mistakes together; otherwise the frozen `Settings` are created.

`create_app` and the commands (`cli/context.py`, `cli/check.py`) load the settings and pass them on;
there is no global object. Other settings are derived from them with ``dataclasses.replace``
(replays) or made by `make_upstream_settings` (registered models).

`gunicorn_conf.py` is separate and has a table of its own. gunicorn's master executes the file at
the start and again on each SIGHUP, and takes the values from its globals. The file also makes the
directory in which the metrics of all workers are combined.

**Rules:**

- A parser raises ValueError with text that completes "VARIABLE must be …". Neither this text nor
  any other message repeats the value, because a key may be in the wrong variable.
- A field with a mistake has the value None until `ConfigError` is raised, so each ``check_…``
  method has to accept None.
- An empty variable counts as unset, except ``FORWARDER_DOTENV``. Under ``FORWARDER_`` each unknown
  variable is a mistake, except those that Kubernetes sets. Under an upstream's prefix only a
  variable that resembles a setting is one, since other programs may use the prefix.
- Both classes are frozen and hashable; caches have `UpstreamSettings` as keys. A parser returns
  read-only mappings, and their fields have ``hash=False``. Fields with secrets have ``repr=False``,
  and their rows name the function that finds the secrets, so that they are redacted.
- The name of an endpoint in stored data (``origin``) contains a digest of its address and key
  instead of its position in the setting, so stored objects stay with their key when the order
  changes.
- `gunicorn_conf.py` imports no module of the forwarder and copies no value of ``.env`` into the
  environment: the master would keep the old code and values after a SIGHUP.

**To add a setting:**

1. a row in `SETTINGS` or `UPSTREAM_SETTINGS`, with a parser of `parsers.py`: made by
   `make_word_parser` or `make_number_parser`, or a function under `with_error_message`. If a value
   may contain a secret, the row names the function of `secret_values.py` that finds it;
2. a field with the row's name in `Settings` or `UpstreamSettings`, explained in the docstring of
   the class unless its name says all, with ``repr=False`` if it is a secret;
3. a ``check_…`` method that `Settings.from_env` calls, if it depends on other settings;
4. ``#NAME=default`` and a description in ``.env.example``, then ``python -m tools.docgen --write``;
5. its default in `test_forwarder_defaults` or `test_upstream_defaults`
   (`tests/config/test_settings.py`), and a row in the tables of values and mistakes there.

`tests/config/test_settings.py` fails without the row, the field, the line in ``.env.example`` or
the expected default, and for a value that may be a secret if the row names no function for it;
`tests/docgen/test_blocks.py` fails if the page of the settings is old. A setting of gunicorn is a
row in `gunicorn_conf.py` and a line in ``.env.example`` (`tests/config/test_gunicorn_conf.py`).
"""
