"""What upstreams list, under which names, and how often they are asked."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.catalog import Catalog
from forwarder.config import Settings
from forwarder.errors import ForwarderError, UpstreamRefused, UpstreamUnreachable
from forwarder.routing import Router

Json = dict[str, Any]


class Listing:
    """An upstream that lists models, or does not."""

    def __init__(self, listed: list[Json] | ForwarderError) -> None:
        self.listed = listed
        self.asked = 0

    def models(self, timeout: float) -> list[Json]:
        assert 0 < timeout < 30
        self.asked += 1
        if isinstance(self.listed, ForwarderError):
            raise self.listed
        return self.listed


def catalog(ttl: float = 60, models: str = "", **listing: Listing) -> Catalog:
    """A catalog of the default upstreams."""
    environment = {
        "CHAT_BASE_URL": "http://up.test/v1",
        "RESPONSES_BASE_URL": "http://up.test/v1",
        "CHAT_MODELS": models,
    }
    upstreams: Any = listing
    return Catalog(Router(Settings.from_env(environment)), upstreams, ttl)


def test_models_have_names_that_lead_to_their_upstream() -> None:
    found = catalog(
        chat=Listing([{"id": "qwen", "context": 9}]), responses=Listing([{"id": "gpt"}])
    )

    models = {model["id"]: model for model in found.models()}

    assert models["chat/qwen"] == {
        "id": "chat/qwen",
        "object": "model",
        "created": 0,
        "owned_by": "chat",
        "context": 9,
    }
    assert models.keys() == {"chat/qwen", "responses/gpt"}


def test_configured_models_come_first_and_count_once() -> None:
    found = catalog(
        models="fast=qwen-turbo,qwen-max,qwen-*",
        chat=Listing([{"id": "qwen-max"}, {"id": "qwen-x"}]),
        responses=Listing([]),
    )

    assert [model["id"] for model in found.models()] == ["fast", "qwen-max", "qwen-x"]


def test_an_upstream_that_fails_hides_no_other() -> None:
    found = catalog(chat=Listing(UpstreamUnreachable("gone")), responses=Listing([{"id": "gpt"}]))

    assert [model["id"] for model in found.models()] == ["responses/gpt"]


@pytest.mark.parametrize(
    ("listed", "state"),
    [
        ([{"id": "a"}], {"reachable": True, "models": 1}),
        ([], {"reachable": True, "models": 0}),
        (UpstreamUnreachable("gone"), {"reachable": False, "error": "gone"}),
        (UpstreamRefused(404, {"message": "x"}), {"reachable": True, "models": None}),
        (UpstreamRefused(405, {"message": "x"}), {"reachable": True, "models": None}),
        (UpstreamRefused(401, {"message": "whose?"}), {"reachable": True, "models": None}),
        (UpstreamRefused(503, {"message": "no"}), {"reachable": False, "error": "no"}),
    ],
)
def test_an_upstream_is_reachable_when_it_answers(
    listed: list[Json] | ForwarderError, state: Json
) -> None:
    assert catalog(chat=Listing(listed), responses=Listing([])).states()["chat"] == state


def test_upstreams_are_asked_once_for_a_while() -> None:
    chat = Listing([])
    kept, fresh = catalog(chat=chat), catalog(ttl=0, chat=chat)

    for _ in range(3):
        kept.models()
        kept.states()
    assert chat.asked == 1
    for _ in range(3):
        fresh.states()
    assert chat.asked == 4
