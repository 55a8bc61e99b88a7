"""Client keys that are created at run time, and the permissions of each.

Keys of FORWARDER_API_KEYS are not here: `server/auth.py` compares them with the settings.
`ClientGrants` and `Budget`, which lower packages need, are in `context/client_identity.py`. This
package stores and checks keys. Their limits are enforced in several places:

    expiry, revocation            `registry.py`, when a client authenticates
    budget                        `budgets.py`, before each request
    models                        `pipeline/upstream_calls.py`, `server/images.py`; routes that list
                                  models
    requests, tokens per minute   `server/rate_limit.py`
    reasoning styles              `pipeline/attempt.py`

**A request**: `server/auth.py` passes the sent key to `ClientKeyRegistry.authenticate`. It reads
the change version (`storage/db/change_notifier.py`), reloads all keys if they have changed, and
finds the `ClientKey` (`key.py`) by the SHA-256 of the sent key in a dict. Only texts that begin
with `KEY_PREFIX` are looked up. The context of the request gets the grants and, as the client's
key, `ClientKey.identity`. Then ``context.authorize`` calls the observers, of which `BudgetObserver`
compares the usage of the client's name with its budget.

**A change**: the routes, the console and the commands pass a body of the API, or a name, to the
registry. `key.py` parses the limits, `ClientKeyRepository` stores a `ClientKeyRow`, and
`publish_change` waits until the other workers have to read the change version again. Only then the
caller gets its answer, and the change is logged with the key's id and name. Without a database, and
in a replay, `ClientKeyRegistry` itself has no keys and refuses changes.

Rules:

- Only the digest is stored. A new secret is returned once, in `CreatedKey`, and never logged.
- The identity stays when a key is rotated, so the client keeps its stored data and its account. No
  client can send an identity: its first character is not ASCII.
- Names are unique among keys that are not revoked, and differ from those of FORWARDER_API_KEYS.
  Usage and budgets belong to the name: a new key continues those of a revoked key of its name.
- Revoked keys stay in the table, and `are_required` counts them: with FORWARDER_CLIENT_KEYS=auto,
  revoking the last key must not admit clients without one. Above ``MAX_KEYS`` those that were
  revoked first are deleted.
- While the database is unavailable, loaded keys are accepted. An unknown key gets a 503, because it
  may be new. While nothing was loaded, clients that need a key get a 503. With ``auto`` every
  client does, unless the file of the change notifier shows that there never was a key.
- The registry replaces its dicts as a whole. Requests read them without a lock; only one reload
  runs at a time (`SharedTask`).
- The last use of a key is stored by a task of its own, without an announcement: it changes no
  decision, so the other workers need not reload.
- A stored budget that cannot be parsed becomes `NO_BUDGET`: the key may use nothing.
- `services.py` puts `BudgetObserver` after `UsageCounter` in the list of observers; the class says
  why. Models without a price cost nothing. If the store is unavailable, the last sums count.

To add a limit:

1. A field of `ClientGrants`. In `key.py`: a reader in `read_limits`, the name in `LIMIT_FIELDS`,
   `serialize_limits` and `restore_key`. `test_limits_survive_storing` compares all limits. The
   limits of a row are one JSON column, so there is no migration.
2. The code that enforces it, from ``context.grants``.
3. The commands (`cli/keys.py`), the form (`console/keys.py` and its template), the schemas
   (`openapi/forwarder_schemas.py`) and `docs/operations/keys.md`. No test finds a limit that is
   missing there.
"""
