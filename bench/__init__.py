"""Benchmark of the forwarding cost: CPU microseconds per streamed chunk and per request.

    load ──HTTP/SSE──▶ relay      ──HTTP/SSE──▶ upstream
    load ──HTTP/SSE──▶ forwarder  ──HTTP/SSE──▶ upstream

Each of the four boxes is a separate process on loopback. The relay runs under the same server as
the forwarder and copies bytes without reading them, so its cost is the minimum for this stack. The
ratio of both costs in one run is comparable across machines.

- `__main__.py`: the command ``python -m bench --help``.
- `workloads.py`: the requests; `shape.py`: the answers.
- `script.py` renders each answer once, `upstream.py` sends it; `relay.py` is the baseline.
- `load.py` sends the requests; `wire.py` and `reading.py` parse and validate the answers.
- `processes.py` runs the processes; `measure.py` alternates the targets; `report.py` prints.

Overload test, with more requests than a worker can serve: ``python -m bench.overload --help``.

Soak test, with many concurrent streams and faults for a long time: ``python -m bench.soak --help``.

- `soak.py`: the command; `mixture.py`: the requests and their expected outcomes.
- `watched.py`: the forwarder with an additional route that counts open resources.

Figures that size a deployment, such as memory per stream: ``python -m bench.sizing``.

Two machines behind nginx, one of which is killed: ``python -m bench.scale_out --help``.

- `scale_out.py`: the command; `conversations.py`: conversations and the provider that checks them.
- `cluster.py`: the machines, nginx, PostgreSQL and Redis.

Hosted tools, their CPU and the pauses of other streams: ``python -m bench.hosted_tools``.
"""
