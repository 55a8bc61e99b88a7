"""Usage: counts and costs per client, model and upstream.

A row has the counts of one hour, client, model and upstream. The types of rows, queries and sums
(`UsageKey`, `UsageCounts`, `UsageQuery`, `PricedSum`) and the sums in SQL are in
`storage/db/usage.py`; the store in a database is `UsageRepository`. Budgets are in
`client_keys/budgets.py`, counters for monitoring in `observability/metrics.py`, and token counts
that an upstream leaves out are estimated in `middleware/usage_estimate.py`.

**Counting**: when a request ends, its context calls `UsageCounter.on_complete` (`counter.py`). It
reads the usage, status, error and times of the context, and adds them to a row in memory. Every
FORWARDER_USAGE_INTERVAL seconds, before a report and when the worker ends, `UsageCounter.flush`
adds all rows to the store. Without a database the store is `MemoryUsageStore` (`store.py`), which
knows one worker only: ``is_shared`` is False, the report says so, and the command refuses.

**Reporting**: routes, console and commands call `UsageReporter` (`report.py`). It flushes, asks the
store for the pairs of model and upstream in the period, finds their prices (`prices.py`), and
passes these to `UsageStore.sum_costs`, which joins and sums. The result is a `UsageReport` of
`UsageLine`s, written as JSON, CSV or a table. Costs are not stored: a new price changes earlier
reports, too.

Rules:

- Only requests with a model and a client name count. The model is the name that the client
  requested; `PriceTable` also tries the upstream's name for it. A request without an upstream
  counts for the model ``unknown`` and the upstream ``none``.
- A request is an error, cancelled, or neither, never both.
- Clients choose names of models, so rows are bounded: per worker, ``MAX_CLIENT_ROWS`` pairs of
  model and upstream for a client and hour, then ``other``; ``MAX_PENDING_ROWS`` that wait for the
  store, then requests are lost and logged (``usage_lost``). A report has at most ``MAX_ROWS`` lines
  and looks up ``MAX_PRICED_MODELS``; its total includes all usage.
- Counts cannot exceed a column: tokens of one request are limited, cached tokens are at most the
  input, reasoning tokens at most the output.
- `add_counts` adds all rows or raises; then the counter puts them back, with the counts that came
  since. Of consecutive failures, the first one is logged.
- `on_complete` runs in many greenlets or threads and only takes a lock for a few additions. Sums of
  rows in memory, lines and encodings take so long that they are made in a native thread.
- Rows contain the client's name, not the owner of its data, and no content. `server/usage.py` shows
  a client with a key only its own usage.
- No CSV cell begins like a formula of a spreadsheet.
- Both stores return the same sums in the same order; `tests/storage/db/test_usage.py` compares
  them.

To add a count:

1. A field at the end of `UsageCounts`, a column at the end of `usage_hours`
   (`storage/db/tables.py`), and a migration. The statements use the fields of the tuple. A test
   under `tests/storage/db/migrations` compares the columns with them.
2. Its value, at the same place, in `count_request`.
3. If reports show it, `COUNT_COLUMNS` and `UsageLine.to_json`: `SUM_COLUMNS` has only the first
   fields of `UsageCounts`. The schema of the API follows `COUNT_COLUMNS`
   (`openapi/forwarder_schemas.py`).

To add a price, add a pattern to ``prices.toml``. Prices in FORWARDER_PRICES come first, then the
longest pattern wins.
"""
