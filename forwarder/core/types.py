"""The types of the pipeline.

A *handler* takes a request (a JSON object) and returns a stream of events.  It connects to the
upstream before it returns.  A stream yields batches: the events that arrived together.  A batch is
sent to the client in one write, which makes bursts cheap.  An empty batch is a heartbeat: the
upstream is connected, but has sent nothing that the client gets.

Everything between the route and the upstream is middleware: a function ``Handler -> Handler``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
Event: TypeAlias = Json
Batch: TypeAlias = list[Event]
EventStream: TypeAlias = Iterator[Batch]
Handler: TypeAlias = Callable[[Json], EventStream]
