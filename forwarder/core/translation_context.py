"""What a translator may know about the request it serves, besides the request itself."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from forwarder.core.errors import Unsupported
from forwarder.core.ids import IdSource


@dataclass
class LossReport:
    """What this request lost on the way, by name and with the reason.

    In strict mode a loss is a refusal instead.  What the forwarder itself does of it is
    ``local_parameters``, and is no loss, whether it reaches the upstream or not.  ``max_schema_nodes`` is
    how many nodes a JSON Schema of this request may have after its references are inlined.
    """

    strict: bool = False
    losses: dict[str, str] = field(default_factory=dict)
    local_parameters: Collection[str] = ()
    max_schema_nodes: int = 50_000

    def drop(self, param: str, reason: str) -> None:
        """Record that ``param`` does not reach the upstream, or refuse the request over it."""
        if self.strict and param not in self.local_parameters:
            raise Unsupported(f"'{param}' cannot be carried: {reason}.", param=param)
        self.note(param, reason)

    def note(self, param: str, reason: str) -> None:
        """Record it and refuse nothing over it: nobody has asked for what this would have done."""
        if param not in self.local_parameters:
            self.losses.setdefault(param, reason)


@dataclass(frozen=True)
class TranslationContext:
    """The terms of one translation.

    ``encrypt`` makes an opaque text of a JSON value, ``decrypt`` opens one of our own making and
    gives ``None`` for a foreign one.  ``reasoning`` says how a Responses client sees reasoning:
    ``summary``, ``text`` or ``both``.  ``hosted_tools`` is ``drop`` or ``refuse``.
    ``custom_tools`` is true when the chat upstream knows freeform tools itself, ``web_search``
    when its model searches the web and takes options for that, and ``can_summarize`` when the
    Responses upstream's model reasons and may be asked to summarise.
    ``extensions`` names what a Responses upstream takes beyond OpenAI's: parameters, and types of parts.
    ``server_calls`` are the beginnings of the ids of calls that a Responses upstream has answered
    itself.
    ``origin`` names the upstream and its model: signatures go back to no other.
    ``stores_encrypted_reasoning`` is true when the response is stored with its sealed reasoning, whether the
    client asked for that or not.
    ``caches_signatures`` is true when signatures are remembered for a client that carries no seals.
    ``make_client_url`` gives the address at which the client finds a path of the upstream's
    (``/files/file-1/content``).
    """

    id_source: IdSource
    loss_report: LossReport
    encrypt: Callable[[Any], str]
    decrypt: Callable[[str], Any]
    reasoning: str = "summary"
    hosted_tools: str = "drop"
    custom_tools: bool = False
    web_search: bool = False
    can_summarize: bool = False
    extensions: Collection[str] = ()
    server_calls: tuple[str, ...] = ()
    origin: str = ""
    stores_encrypted_reasoning: bool = False
    caches_signatures: bool = True
    make_client_url: Callable[[str], str] = "/v1{}".format
