"""Usage: counts and costs per client, model and upstream.

- `counter.py` counts finished requests in memory and adds the counts to a store regularly.
- `store.py` is the interface of stores, and the store in the memory of a worker. The store in a
  database is `forwarder.storage.repositories.usage`.
- `prices.py` has the prices of models, from which a report computes costs. Costs are not stored.
- `report.py` makes reports: for the API, the command line, and pages of a console.
"""
