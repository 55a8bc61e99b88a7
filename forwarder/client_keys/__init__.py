"""Client keys that are created at run time, and the permissions of each.

- `key.py` is a key with its limits, and parses limits from requests, commands and forms.
- `registry.py` manages all keys: each worker caches them and reloads the cache after a change.
- `budgets.py` compares the usage of a key with its budget before each request.

The keys of FORWARDER_API_KEYS are not here; `ClientKeyRegistry.are_required` considers both.
"""
