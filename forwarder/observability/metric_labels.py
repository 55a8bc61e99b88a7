"""Label values, of which there may not be any number.

Every new value of a label is a new series that is kept for ever, so no client may make them up.
"""

from __future__ import annotations

from collections.abc import Iterable

from forwarder.config.parsers import is_pattern
from forwarder.config.settings import Settings
from forwarder.protocols.ollama_parameters import OLLAMA_CHAT, OLLAMA_GENERATE
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT

OTHER = "other"
NONE = "none"

_LONGEST = 128
_TABLES = (CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT, OLLAMA_CHAT, OLLAMA_GENERATE)
_PARAMETERS = frozenset(name.partition(".")[0] for table in _TABLES for name in table)


class Names:
    """The values that are named; beyond ``most`` that were learned, all others are ``other``."""

    def __init__(self, known: Iterable[str] = (), most: int = 64) -> None:
        self._known = frozenset(known)
        self._learned: set[str] = set()
        self._most = most

    def label(self, name: str | None, learn: bool = True) -> str:
        """``name`` as a label; a new one is learned only if ``learn`` says that it is real."""
        if not name:
            return NONE
        if name in self._known or name in self._learned:
            return name
        if learn and len(self._learned) < self._most and len(name) <= _LONGEST:
            self._learned.add(name)
            return name
        return OTHER


def models(settings: Settings) -> set[str]:
    """The upstreams' names of the models that the configuration spells out."""
    found = {settings.default_model} if settings.default_model else set()
    for upstream in settings.upstreams:
        found |= {*upstream.aliases.values()}
        found |= {name for name in upstream.globs if not is_pattern(name)}
    return found


def parameter(name: str) -> str:
    """A dropped parameter as a label: of ``tools.web_search``, the parameter ``tools``."""
    head = name.partition(".")[0]
    return head if head in _PARAMETERS else OTHER
