"""Prices of models. Prices in FORWARDER_PRICES take precedence over those in ``prices.toml``.

Usage is counted under the model name of the client. The price is looked up by this name and by the
upstream's name for the model, each with and without the upstream (``chat/qwen-plus``).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from fnmatch import translate
from functools import cache, lru_cache
from pathlib import Path

from forwarder.config.parsers import Price, make_prices
from forwarder.config.settings import Settings
from forwarder.models.registered_model import strip_tag
from forwarder.models.router import find_target, normalize_name
from forwarder.storage.db.usage import UsageCounts, compute_cost

SHIPPED_PRICES = Path(__file__).with_name("prices.toml")

MAX_CACHED_MODELS = 4096

Matcher = Callable[[str], object]
"""Returns a true value for a name that matches a pattern."""


class PriceTable:
    """Finds the price of a model. The longest pattern wins; those of the settings come first."""

    def __init__(self, settings: Settings) -> None:
        self._upstreams = {upstream.name: upstream for upstream in settings.upstreams}
        self._groups = settings.groups
        self._prices = [*compile_patterns(settings.prices), *compile_shipped_prices()]
        self.find_price = lru_cache(MAX_CACHED_MODELS)(self._find_price)

    def compute_cost(self, model: str, upstream: str, counts: UsageCounts) -> float | None:
        """Return the cost of tokens in USD, None if the model has no price."""
        price = self.find_price(model, upstream)
        return None if price is None else compute_cost(counts, price)

    def _find_price(self, model: str, upstream: str) -> Price | None:
        """Return the price of a model at an upstream; cached as `find_price`."""
        names = list(self._list_names(model, upstream))
        for matches, price in self._prices:
            if any(map(matches, names)):
                return price
        return None

    def _list_names(self, model: str, upstream: str) -> Iterator[str]:
        bare = model.removeprefix(f"{upstream}/")
        for name in dict.fromkeys((bare, *self._find_upstream_names(bare, upstream))):
            yield name
            yield f"{upstream}/{name}"

    def _find_upstream_names(self, model: str, upstream: str) -> tuple[str, ...]:
        """Return the configured form of a client's name, and the upstream's name for it."""
        settings = self._upstreams.get(upstream)
        if settings is None:
            return (strip_tag(model),)
        members = self._groups.get(model) or self._groups.get(strip_tag(model)) or ()
        models = {member.model for member in members if member.upstream == upstream}
        # Usage does not name the member. Of several models, any could have answered.
        name = normalize_name(models.pop() if len(models) == 1 else model, [settings])
        return name, find_target(name, settings)


@cache
def load_shipped_prices() -> Mapping[str, Price]:
    """Return the prices of well-known models by pattern."""
    return make_prices(tomllib.loads(SHIPPED_PRICES.read_text(encoding="utf-8")))


@cache
def compile_shipped_prices() -> list[tuple[Matcher, Price]]:
    return compile_patterns(load_shipped_prices())


def compile_patterns(prices: Mapping[str, Price]) -> list[tuple[Matcher, Price]]:
    """Return a function that matches names for each pattern, the longest pattern first."""
    ordered = sorted(prices.items(), key=lambda item: -len(item[0]))
    return [(re.compile(translate(pattern)).match, price) for pattern, price in ordered]
