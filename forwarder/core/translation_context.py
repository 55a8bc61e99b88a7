"""The loss report and the settings that a translator gets with each request."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from forwarder.core.errors import Unsupported
from forwarder.core.ids import IdSource


@dataclass
class LossReport:
    """The parts of a request that do not reach the upstream: name -> reason.

    In strict mode a loss raises an error instead.  The forwarder itself carries out
    ``local_parameters``, so they never count as losses.  ``max_schema_nodes`` limits the nodes of a
    JSON Schema after its references are inlined.
    """

    strict: bool = False
    losses: dict[str, str] = field(default_factory=dict)
    local_parameters: Collection[str] = ()
    max_schema_nodes: int = 50_000

    def restart(self, losses: dict[str, str]) -> LossReport:
        """Return a report with the same settings that begins with a copy of ``losses``."""
        return LossReport(self.strict, dict(losses), self.local_parameters, self.max_schema_nodes)

    def drop(self, param: str, reason: str) -> None:
        """Record that ``param`` does not reach the upstream.  Raises Unsupported in strict mode."""
        if self.strict and param not in self.local_parameters:
            raise Unsupported(f"'{param}' cannot be carried: {reason}.", param=param)
        self.note(param, reason)

    def note(self, param: str, reason: str) -> None:
        """Record a loss without refusing the request, because the client did not rely on it."""
        if param not in self.local_parameters:
            self.losses.setdefault(param, reason)


@dataclass(frozen=True)
class TranslationContext:
    """The settings of one translation.

    - ``encrypt`` seals a JSON value as opaque text.  ``decrypt`` returns the value of such a seal,
      or ``None`` for foreign text.
    - ``reasoning``: how a Responses client gets reasoning: ``summary``, ``text`` or ``both``.
    - ``hosted_tools``: ``drop`` or ``refuse``.
    - ``custom_tools``: the Chat upstream supports freeform tools.
    - ``web_search``: the upstream's model can search the web and accepts options for it.
    - ``can_summarize``: the Responses upstream's model reasons and can summarize its reasoning.
    - ``extensions``: parameters and types of parts that a Responses upstream accepts beyond
      OpenAI's.
    - ``server_calls``: id prefixes of calls that a Responses upstream has answered itself.
    - ``origin``: the upstream and its model.  Signatures are sent back to the same origin only.
    - ``stores_encrypted_reasoning``: the response is stored with sealed reasoning, even if the
      client did not request it.
    - ``caches_signatures``: signatures are cached for clients that do not send seals back.
    - ``make_client_url`` returns the URL under which the client reaches a path of the upstream
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
