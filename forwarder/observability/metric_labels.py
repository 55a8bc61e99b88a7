"""Label values, of which there may not be any number.

Every new value of a label is a new series that is kept for ever, so no client may make them up.
"""

from __future__ import annotations

from collections.abc import Iterable

from forwarder.config.parsers import is_pattern
from forwarder.config.settings import Settings
from forwarder.protocols.ollama_parameters import OLLAMA_CHAT, OLLAMA_GENERATE
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT

OTHER_LABEL = "other"
NO_LABEL = "none"

MAX_LABEL_LENGTH = 128
PARAMETER_TABLES = (CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT, OLLAMA_CHAT, OLLAMA_GENERATE)
KNOWN_PARAMETERS = frozenset(name.partition(".")[0] for table in PARAMETER_TABLES for name in table)


class LabelSet:
    """The values that are named; beyond ``max_learned`` that were learned, all others are ``other``."""

    def __init__(self, known: Iterable[str] = (), max_learned: int = 64) -> None:
        self._known = frozenset(known)
        self._learned: set[str] = set()
        self._max_learned = max_learned

    def get_label(self, name: str | None, learn: bool = True) -> str:
        """``name`` as a label; a new one is learned only if ``learn`` says that it is real."""
        if not name:
            return NO_LABEL
        if name in self._known or name in self._learned:
            return name
        if learn and len(self._learned) < self._max_learned and len(name) <= MAX_LABEL_LENGTH:
            self._learned.add(name)
            return name
        return OTHER_LABEL


def list_configured_models(settings: Settings) -> set[str]:
    """The upstreams' names of the models that the configuration spells out."""
    found = {settings.default_model} if settings.default_model else set()
    for upstream in settings.upstreams:
        found |= {*upstream.aliases.values()}
        found |= {name for name in upstream.globs if not is_pattern(name)}
    return found


def label_parameter(name: str) -> str:
    """A dropped parameter as a label: of ``tools.web_search``, the parameter ``tools``."""
    head = name.partition(".")[0]
    return head if head in KNOWN_PARAMETERS else OTHER_LABEL
