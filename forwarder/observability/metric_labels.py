"""Metric label values of limited cardinality.

Each new label value creates a time series that lives as long as the process, so clients must not
be able to create arbitrary values.
"""

from __future__ import annotations

from collections.abc import Iterable

from forwarder.config.parsers import is_pattern
from forwarder.config.settings import Settings
from forwarder.protocols.registry import CLIENT_PROTOCOLS

OTHER_LABEL = "other"
NO_LABEL = "none"

MAX_LABEL_LENGTH = 128
KNOWN_PARAMETERS = frozenset(
    name.partition(".")[0] for each in CLIENT_PROTOCOLS.values() for name in each.parameters
)


class LabelSet:
    """Maps values to labels: known values and up to ``max_learned`` new ones, else ``other``."""

    def __init__(self, known: Iterable[str] = (), max_learned: int = 64) -> None:
        self._known = frozenset(known)
        self._learned: set[str] = set()
        self._max_learned = max_learned

    def get_label(self, name: str | None, learn: bool = True) -> str:
        """Return the label for ``name``; add a new name only if ``learn`` is true.

        Pass ``learn=False`` for a name that a client may have made up.
        """
        if not name:
            return NO_LABEL
        if name in self._known or name in self._learned:
            return name
        if learn and len(self._learned) < self._max_learned and len(name) <= MAX_LABEL_LENGTH:
            self._learned.add(name)
            return name
        return OTHER_LABEL


def list_configured_models(settings: Settings) -> set[str]:
    """Return the upstream names of all configured models, without wildcard patterns."""
    models = {settings.default_model} if settings.default_model else set()
    for upstream in settings.upstreams:
        models |= {*upstream.aliases.values()}
        models |= {name for name in upstream.globs if not is_pattern(name)}
    return models


def label_parameter(name: str) -> str:
    """Return the label of a dropped parameter: ``tools`` for ``tools.web_search``."""
    head = name.partition(".")[0]
    return head if head in KNOWN_PARAMETERS else OTHER_LABEL
