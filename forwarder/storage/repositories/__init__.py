"""Repositories: the named operations on stored data. Each method is one transaction.

A module of `storage.db` knows the rows of one kind of data; a repository knows all steps of an
operation. Elsewhere are the checks of requests and the objects of the API (`storage`,
`vector_stores/service.py`), the caches of models and keys (`models/registry.py`,
`client_keys/registry.py`), and the pruning of old data (`storage/db/retention.py`).

A method passes a function of the connection to `Database.read` or `Database.write` and returns its
result: mostly named tuples of `storage.db` such as `StoredResponse`, which the caller renders. The
function is a lambda if one statement function does everything. Operations with several steps are,
for example:

- `ResponseRepository.store_answer`: the response, its event log, its items in the conversation, and
  the release of the conversation's lease. The next turn starts with the items of this one.
- `BackgroundJobRepository.add`: the lease on the conversation, the queued response with its first
  events, and the worker's lease. No job is stored without a lease.
- `BackgroundJobRepository.finish`: as `store_answer`, if the job still belongs to this worker. An
  answer also replaces a failure that only the expired lease caused.
- `BackgroundJobRepository.claim`: the job and a new lease on its conversation. If another turn
  holds the conversation, ConversationLocked undoes the claim.
- `HistoryRepository.read_history`: the chain or conversation that a request continues, and the
  items that it refers to. `history.py` looks for a referenced item in the index of responses, then
  in conversations, and last by the place that a derived id contains (`storage/items.py`).
- `OwnerRepository.add_key_unless`: takes a named lock, so that only one worker adds an owner key.
- `VectorStoreRepository.create`, `add_files`: a store or a batch, together with its files.

`responses.py` and `background_jobs.py` share `append_to_conversation`, so that answers and
background responses add items in the same way. It replaces references by their items first, with
`find_items` of `history.py`.

Rules:

- Only `storage.db` and this package query the database and import SQLAlchemy;
  `tests/test_imports.py` fails otherwise.
- Every method that queries the database may raise StoreUnavailable. Nothing is retried here: the
  caller knows whether it can wait. Exceptions that the function raises (NotFound,
  ConversationLocked, TooLarge, KeyNameTaken …) roll back and reach the caller.
- The function may run twice and, with SQLite, runs in a native thread (see `storage.db`). `claim`
  therefore releases the reserved memory first.
- ``spend`` receives JSON text before it is parsed, and raises TooLarge or Overloaded. Methods that
  read large data for a request take it.
- The owner is the first parameter, or part of it (a lease, a claimed file). Methods for tables of
  the operator and for the jobs and files of all owners have none.
- A last use is written with `Database.write_if_possible`, so that requests that only read are
  served while a disk is full. `VectorStoreRepository.mark_used` is the one method with two
  transactions: it writes only if a read shows that it has to.
- `ModelRepository` and `ClientKeyRepository` change the counter of their table. Their registries
  announce the change to other workers after the commit.
- `OwnerRepository` moves owners without a statement timeout, because a move updates all their rows.

To add an operation, write its statements in the module of `storage.db` and a method here. Put all
steps that have to be atomic into one function, also the reads on which a write depends; lock their
rows (`with_for_update`) for PostgreSQL. A new repository takes the `Database` in its constructor,
and `tests/test_imports.py` fails until it has a test module.
"""
