"""The interface that every kind of hosted tool implements; the loop relies on nothing else.

A `ToolKind` lives as long as the process. For each request it makes a `ToolSet`: the functions for
the model, the items that come before the model's, and the items of its type in the history as
function calls. A new kind is a subclass in a module of its own and a line in `kind_table.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from forwarder.core.cancellation import CancelToken
from forwarder.core.errors import ClientDisconnected, InvalidRequest, shorten_value
from forwarder.core.ids import IdSource
from forwarder.core.types import Json
from forwarder.hosted_tools.hosted_function import HostedFunction
from forwarder.hosted_tools.tool_context import ToolClient

UNKNOWN_RESULT = "The result was used in the answer that follows."
"""The output of an earlier call if the client does not send its results."""


class HistoryCall(NamedTuple):
    """A hosted call of an earlier turn as a function call; ``item_id`` is the id of its item."""

    item_id: str
    name: str
    arguments: str
    output: str | list[Json]


class PreludeItem(NamedTuple):
    """An item that comes before the model's; ``events`` are between its begin and end."""

    item: Json
    events: tuple[str, ...]


def ignore_call(item: Json) -> None:
    """Do nothing with a call that has ended."""


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class ClientWatch:
    """Watches the client while tools run. ``token`` is the waiting client."""

    def __init__(self, token: CancelToken) -> None:
        self._token = token

    @property
    def is_gone(self) -> bool:
        return self._token.is_cancelled

    def check(self) -> None:
        """Raise ClientDisconnected if the client has left."""
        if self.is_gone:
            raise ClientDisconnected

    @contextmanager
    def cancel_on_disconnect(self, *tasks: Cancellable) -> Iterator[None]:
        """Cancel the tasks when the client disconnects, or when the block is left early.

        Raises ClientDisconnected if the client has left already.
        """
        cancels: list[Callable[[], None]] = [task.cancel for task in tasks]
        callbacks = self._token.cancel_callbacks
        callbacks.update(cancels)
        try:
            self.check()
            yield
        except BaseException:
            for cancel in cancels:
                cancel()
            raise
        finally:
            callbacks.difference_update(cancels)


@dataclass
class ToolRequest:
    """A request as one kind of tools sees it.

    ``tools`` are the tools of the kind with their paths in the request, ``items`` the input.
    ``sources`` receives the sources that the model has seen and may cite: URLs of pages and ids of
    files, with their titles. With ``is_preview`` nothing may be called. ``memory`` belongs to the
    client's request: a fallback to another upstream finds the data of an earlier attempt in it.
    ``on_call_end`` gets the item of each call that a `ToolSet` itself has run.
    """

    tools: list[tuple[str, Json]]
    items: list[Any]
    include: Collection[str]
    client: ToolClient
    watch: ClientWatch
    id_source: IdSource
    sources: dict[str, str]
    is_preview: bool
    memory: dict[str, Any]
    on_call_end: Callable[[Json], object] = ignore_call


class ToolSet(ABC):
    """The tools of one kind in one request; the constructor raises InvalidRequest for bad ones.

    The methods before the first round add to ``prelude`` and ``notes``: items for the client, and
    texts that name the missing tools to the model. ``call_count`` counts the calls among the items.
    """

    def __init__(self) -> None:
        self.prelude: list[PreludeItem] = []
        self.notes: list[str] = []
        self.call_count = 0

    @abstractmethod
    def list_functions(self, taken: set[str]) -> list[HostedFunction]:
        """Return the functions to offer. ``taken`` are the names of others.

        May call servers. Raises InvalidRequest for a name that cannot be avoided, and
        ClientDisconnected.
        """

    def find_missing_function(self, name: str) -> HostedFunction | None:
        """Return a function that fails if the model calls a tool of this kind that is not offered.

        ``None`` if the name belongs to another kind.
        """
        return None

    def run_due_calls(self) -> None:  # noqa: B027 (few kinds have such calls)
        """Run calls that have to be done before the model is asked; their results are items."""

    def find_functions(self, reference: Json, path: str) -> list[str] | None:
        """Return the names of the functions that ``tool_choice`` means by a reference.

        ``None`` leaves the reference to the upstream. Raises InvalidRequest for unknown tools.
        """
        return None

    def owns_item(self, item: Json) -> bool:
        """Whether an item of the kind's types is converted; others are left to the upstream."""
        return True

    @abstractmethod
    def convert_item(self, item: Json, index: int) -> HistoryCall | None:
        """Return the call of an item ``input[index]``; ``None`` leaves the item out.

        Raises InvalidRequest if the item is malformed.
        """

    def close(self) -> None:  # noqa: B027 (few kinds have something to end)
        """Release the resources of the response."""


class ToolKind(ABC):
    """A kind of hosted tools.

    ``name`` is its name in settings. ``tool_types`` are the types of its tools, also in
    ``tool_choice``. ``item_types`` are the types of its items in the history, and
    ``include_values`` those values of ``include`` that it answers.
    """

    name: str
    tool_types: frozenset[str]
    item_types: frozenset[str]
    include_values: frozenset[str] = frozenset()

    def restrict(self, native: frozenset[str]) -> ToolKind | None:
        """Return the kind for an upstream that runs the tools named ``native`` itself.

        ``None`` if everything of this kind is left to the upstream.
        """
        return None if self.name in native else self

    @abstractmethod
    def can_run(self, tool: Json, client: ToolClient) -> bool:
        """Whether a tool of its types is run here; others are left to the upstream."""

    @abstractmethod
    def open_tools(self, request: ToolRequest) -> ToolSet:
        """Validate the tools of a request, which may be none. Raises InvalidRequest."""


class HistoryKind(ToolKind):
    """A kind of tools that the upstream runs itself, without knowing the items of the kind."""

    def __init__(self, kind: ToolKind) -> None:
        self.name = kind.name
        self.tool_types = frozenset()
        self.item_types = kind.item_types
        self._kind = kind

    def can_run(self, tool: Json, client: ToolClient) -> bool:
        return False

    def open_tools(self, request: ToolRequest) -> ToolSet:
        return self._kind.open_tools(request)


class SingleFunctionToolSet(ToolSet):
    """The tools of a kind that has one function, named as the tool, or none in this request."""

    def __init__(self, function: HostedFunction | None) -> None:
        super().__init__()
        self._function = function

    def list_functions(self, taken: set[str]) -> list[HostedFunction]:
        if self._function is None:
            return []
        reserve_name(self._function.name, self._function.name, taken)
        return [self._function]

    def find_functions(self, reference: Json, path: str) -> list[str] | None:
        return None if self._function is None else [self._function.name]


def reserve_name(tool: str, name: str, taken: Collection[str]) -> None:
    """Raise InvalidRequest if the name of a hosted tool's function is taken."""
    if name in taken:
        raise tool_name_collision(tool, name)


def tool_name_collision(tool: str, name: str) -> InvalidRequest:
    return InvalidRequest(
        f"The hosted tool '{shorten_value(tool)}' would have the name of another tool, "
        f"'{shorten_value(name)}'.",
        param="tools",
        code="tool_name_collision",
    )
