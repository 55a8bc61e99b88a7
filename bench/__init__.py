"""What forwarding costs: CPU microseconds per streamed chunk and per request.

    load ──HTTP/SSE──▶ relay      ──HTTP/SSE──▶ upstream
    load ──HTTP/SSE──▶ forwarder  ──HTTP/SSE──▶ upstream

Each of the four is a process of its own on loopback.  The relay runs under the same server as the
forwarder and copies bytes without reading them, so what it costs no forwarder on this stack can
save; the ratio of the two, taken in one run, is the figure that means the same on any machine.

- `__main__.py` is the command: ``python -m bench --help``.
- `workloads.py` says what is asked, `shape.py` what is answered.
- `script.py` renders answers once, `upstream.py` sends them; `relay.py` is the floor.
- `load.py` asks, `wire.py` and `reading.py` read what came and say what is wrong with it.
- `processes.py` starts, watches and stops; `measure.py` takes turns; `report.py` prints.

And what becomes of more requests than it can serve: ``python -m bench.overload --help``.

And what it keeps: ``python -m bench.soak --help`` asks for long and at once, with faults.

- `soak.py` is the command; `mixture.py` says what is asked and how it has to end.
- `watched.py` is the forwarder with a count of what it holds.
"""
