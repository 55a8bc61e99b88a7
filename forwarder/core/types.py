"""The one type that carries the design.

A *call* takes a request and connects before it returns: what it returns is a stream, and a
stream yields batches, the events that arrived together.  Merging writes, never events, is what
keeps a burst cheap; an empty batch says that the upstream is alive but silent.

Everything between the route and the upstream is a function ``Call -> Call``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
Event: TypeAlias = Json
Batch: TypeAlias = list[Event]
EventStream: TypeAlias = Iterator[Batch]
Handler: TypeAlias = Callable[[Json], EventStream]
