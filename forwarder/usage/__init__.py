"""Usage: counts and costs per client, model and upstream.

- `counter.py` counts finished requests in memory and adds the counts to a store regularly.
- `store.py` is the interface of stores, and the one in the memory of a worker. The one of a
  database is `forwarder.storage.repositories.usage`.
- `prices.py` has the prices of models, by which a report computes costs. No cost is stored.
- `report.py` makes reports: for the API, the command line, and pages of a console.
"""
