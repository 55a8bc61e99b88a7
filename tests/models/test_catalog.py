"""Model lists of upstreams: names, caching, states."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from forwarder.config.settings import Settings
from forwarder.core.errors import (
    ForwarderError,
    UpstreamKeyRefused,
    UpstreamMisconfigured,
    UpstreamRefused,
    UpstreamUnreachable,
)
from forwarder.models.catalog import Catalog
from forwarder.models.router import Router
from forwarder.providers import PROFILES
from forwarder.upstream.upstream_map import PerUpstream
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


class Listing:
    """An upstream with a scripted model list or error."""

    def __init__(self, listed: list[Json] | ForwarderError, shared: bool = False) -> None:
        self.listed = listed
        self.settings = SimpleNamespace(passthrough_key=shared)
        self.key_refusal: str | None = None
        self.asked = 0
        self.keys: list[str | None] = []

    def list_models(self, timeout: float, client_key: str | None = None) -> list[Json]:
        assert 0 < timeout < 30
        self.asked += 1
        self.keys.append(client_key)
        if self.settings.passthrough_key:
            return [{"id": f"for-{client_key}"}] if client_key else []
        if isinstance(self.listed, ForwarderError):
            raise self.listed
        return self.listed


def make_default_catalog(ttl: float = 60, models: str = "", **listing: Listing) -> Catalog:
    """A catalog of the default upstreams."""
    environment = {
        "CHAT_BASE_URL": "http://up.test/v1",
        "RESPONSES_BASE_URL": "http://up.test/v1",
        "CHAT_MODELS": models,
    }
    return make_catalog(Settings.from_env(environment), listing, ttl)


def make_catalog(settings: Settings, listing: dict[str, Listing], ttl: float) -> Catalog:
    """A catalog of the upstreams in ``listing``."""
    here = [u for u in settings.upstreams if u.name in listing]
    upstreams: PerUpstream[Any] = PerUpstream(lambda u: listing[u.name], here)
    return Catalog(Router(settings), upstreams, ttl)


def test_models_have_names_that_lead_to_their_upstream() -> None:
    found = make_default_catalog(
        chat=Listing([{"id": "qwen", "context": 9}]), responses=Listing([{"id": "gpt"}])
    )

    models = {model["id"]: model for model in found.list_models()}

    assert models["chat/qwen"] == {
        "id": "chat/qwen",
        "object": "model",
        "created": 0,
        "owned_by": "chat",
        "context": 9,
    }
    assert models.keys() == {"chat/qwen", "qwen", "responses/gpt", "gpt"}
    assert models["qwen"] == {**models["chat/qwen"], "id": "qwen"}


@check_each(
    ("clients", "plain"),
    [
        (("chat",), {"gpt", "both", "fast"}),
        (("responses",), {"qwen", "both", "fast"}),
        (("ollama",), {"qwen", "both", "fast"}),
        (("chat", "responses"), {"qwen", "gpt", "both", "fast"}),
    ],
)
def test_plain_names_are_listed_where_they_lead_to_the_model(
    clients: tuple[str, ...], plain: set[str]
) -> None:
    environment = {
        "CHAT_BASE_URL": "http://up.test/v1",
        "CHAT_MODELS": "fast=qwen-turbo,other=gpt",
        "RESPONSES_BASE_URL": "http://up.test/v1",
        "RESPONSES_MODELS": "fast=gpt-mini",
    }
    listing = {
        "chat": Listing([{"id": "qwen"}, {"id": "both", "created": 1}]),
        "responses": Listing([{"id": "gpt"}, {"id": "both", "created": 2}, {"id": "other"}]),
    }
    found = make_catalog(Settings.from_env(environment), listing, 60)

    names = {model["id"] for model in found.list_models(clients=clients)}

    prefixed = {"chat/qwen", "chat/both", "chat/fast", "responses/gpt", "responses/both"}
    prefixed |= {"responses/fast", "responses/other"}
    assert names == prefixed | plain | {"other"}  # that is the alias
    for name in plain:
        routes = [found._router.resolve(name, client) for client in clients]
        assert any(f"{r.upstream.name}/{name}" in names for r in routes)


def test_codex_finds_the_plain_names_that_lead_its_requests_to_a_model() -> None:
    environment = {"CHAT_BASE_URL": "http://up.test/v1", "RESPONSES_BASE_URL": "http://up.test/v1"}
    settings = Settings.from_env(environment)
    listing: Any = {"chat": Listing([{"id": "qwen"}]), "responses": Listing([{"id": "gpt"}])}
    for upstream in settings.upstreams:
        listing[upstream.name].settings = upstream
        listing[upstream.name].get_profile = lambda model: PROFILES["generic"]

    entries = make_catalog(settings, listing, 60).list_codex_entries()

    listed = [e["slug"] for e in entries if e["visibility"] == "list"]
    assert listed == ["chat/qwen", "qwen", "responses/gpt"]


def test_configured_models_come_first_and_count_once() -> None:
    found = make_default_catalog(
        models="fast=qwen-turbo,qwen-max,qwen-*",
        chat=Listing([{"id": "qwen-max"}, {"id": "qwen-x"}]),
        responses=Listing([]),
    )

    assert [model["id"] for model in found.list_models()] == ["fast", "qwen-max", "qwen-x"]


def test_failing_upstream_does_not_hide_other_lists() -> None:
    found = make_default_catalog(
        chat=Listing(UpstreamUnreachable("gone")), responses=Listing([{"id": "gpt"}])
    )

    assert [model["id"] for model in found.list_models()] == ["responses/gpt", "gpt"]


@check_each(
    ("listed", "state"),
    [
        ([{"id": "a"}], {"reachable": True, "models": 1}),
        ([], {"reachable": True, "models": 0}),
        (UpstreamUnreachable("gone"), {"reachable": False, "error": "gone"}),
        (UpstreamRefused(404, {"message": "x"}), {"reachable": True, "models": None}),
        (UpstreamRefused(405, {"message": "x"}), {"reachable": True, "models": None}),
        (UpstreamRefused(401, {"message": "whose?"}), {"reachable": True, "models": None}),
        (UpstreamRefused(503, {"message": "no"}), {"reachable": False, "error": "no"}),
        (UpstreamMisconfigured("no API"), {"reachable": False, "error": "no API"}),
        (
            UpstreamKeyRefused("no key"),
            {"reachable": False, "error": "no key", "key_accepted": False},
        ),
    ],
)
def test_an_upstream_is_reachable_when_it_answers(
    listed: list[Json] | ForwarderError, state: Json
) -> None:
    assert (
        make_default_catalog(chat=Listing(listed), responses=Listing([])).describe_states()["chat"]
        == state
    )


def test_state_reports_refused_key_beside_a_public_list() -> None:
    chat = Listing([{"id": "a"}])
    found = make_default_catalog(chat=chat)
    chat.key_refusal = "no key"

    expected = {"reachable": True, "models": 1, "error": "no key", "key_accepted": False}
    assert found.describe_states()["chat"] == expected

    chat.key_refusal = None
    assert found.describe_states()["chat"] == {"reachable": True, "models": 1}


def test_model_lists_are_cached() -> None:
    chat = Listing([])
    kept, fresh = make_default_catalog(chat=chat), make_default_catalog(ttl=0, chat=chat)

    for _ in range(3):
        kept.list_models()
        kept.describe_states()
    assert chat.asked == 1
    for _ in range(3):
        fresh.describe_states()
    assert chat.asked == 4


def test_a_client_s_key_is_used_where_keys_are_passed_through() -> None:
    chat, responses = Listing([], shared=True), Listing([{"id": "gpt"}])
    found = make_default_catalog(chat=chat, responses=responses)

    def ids(key: str | None) -> list[str]:
        return [model["id"] for model in found.list_models(key) if "/" in model["id"]]

    assert ids("a") == ["chat/for-a", "responses/gpt"]
    assert ids("b") == ["chat/for-b", "responses/gpt"]
    assert ids(None) == ["responses/gpt"]
    assert ids("a") == ["chat/for-a", "responses/gpt"]
    assert chat.keys == [None, "a", "b"]
    assert responses.keys == [None]


def test_number_of_cached_lists_is_limited() -> None:
    chat = Listing([], shared=True)
    found = make_default_catalog(chat=chat, responses=Listing([]))

    for number in range(300):
        found.list_models(f"key-{number}")
    found.list_models("key-299")
    assert chat.keys.count("key-299") == 1
    found.list_models("key-0")
    assert chat.keys.count("key-0") == 2


@check_each(
    ("name", "owner"),
    [
        ("fast", "chat"),
        ("qwen-unlisted", "chat"),
        ("responses/anything", "responses"),
        ("listed", "chat"),
    ],
)
def test_a_model_that_is_not_listed_is_known_by_its_route(name: str, owner: str) -> None:
    listing = {"chat": Listing([{"id": "listed"}]), "responses": Listing([])}
    model = make_default_catalog(models="fast=qwen-turbo,qwen-*,listed", **listing).find_model(name)

    assert model == {"id": name, "object": "model", "created": 0, "owned_by": owner}


@check_each("name", ["other", "chat/", "nobody/model"])
def test_a_model_that_only_the_default_would_serve_is_unknown(name: str) -> None:
    listing = {"chat": Listing([]), "responses": Listing([])}
    assert make_default_catalog(models="qwen-*", **listing).find_model(name) is None


@check_each("name", ["llama", "llama:latest", "chat/llama:latest"])
@check_each("listed", ["llama", "llama:latest"])
def test_a_listed_model_is_found_with_its_tag_and_without(name: str, listed: str) -> None:
    listing = {"chat": Listing([{"id": listed, "created": 7}]), "responses": Listing([])}

    model = make_default_catalog(**listing).find_model(name if "/" in name else f"chat/{name}")

    assert model is not None
    assert (model["id"], model["created"]) == (f"chat/{listed}", 7)


@check_each(
    ("chat", "found"),
    [
        ([{"id": "qwen", "created": 7}], {"id": "qwen", "created": 7, "owned_by": "chat"}),
        ([{"id": "qwen:latest"}], {"id": "qwen", "created": 0, "owned_by": "chat"}),
        ([{"id": "other"}], None),
        (UpstreamRefused(404, {"message": "x"}), {"id": "qwen", "created": 0, "owned_by": "chat"}),
        (UpstreamRefused(401, {"message": "x"}), None),
        (UpstreamUnreachable("gone"), None),
    ],
)
def test_default_rule_serves_names_unless_the_upstream_list_lacks_them(
    chat: list[Json] | ForwarderError, found: Json | None
) -> None:
    listing = {"chat": Listing(chat), "responses": Listing([{"id": "gpt"}])}

    served = make_default_catalog(**listing).find_served_model("qwen", "ollama")

    assert served == (found and {"object": "model", **found})
    assert make_default_catalog(models="fast=qwen", **listing).find_served_model("fast", "ollama")


def test_served_model_uses_lists_of_passthrough_upstreams() -> None:
    listing = {"chat": Listing([], shared=True), "responses": Listing([])}

    assert make_default_catalog(**listing).find_served_model("for-k", "ollama", "k")
    assert make_default_catalog(**listing).find_served_model("for-x", "ollama", "k") is None


def test_codex_has_an_entry_for_each_model_and_for_those_only_named() -> None:
    environment = {
        "CHAT_BASE_URL": "http://up.test/v1",
        "CHAT_MODEL_INFO": '{"told": {"context_window": 5}, "qwen-*": {"context_window": 6}}',
        "FORWARDER_DEFAULT_MODEL": "usual",
    }
    settings = Settings.from_env(environment)
    [upstream] = settings.upstreams
    listing: Any = Listing([{"id": "qwen-x"}, {"id": "other", "context_length": 7}])
    listing.settings = upstream
    listing.get_profile = lambda model: PROFILES["generic"]

    entries = make_catalog(settings, {"chat": listing}, 60).list_codex_entries()

    assert [(e["slug"], e["context_window"], e["priority"]) for e in entries] == [
        ("qwen-x", 6, 0),
        ("other", 7, 1),
        ("usual", 128_000, 2),
        ("told", 5, 3),
        ("codex-auto-review", 128_000, 4),
        ("gpt-5.6-luna", 128_000, 5),
        ("gpt-5.6-terra", 128_000, 6),
    ]
    assert [e["visibility"] for e in entries] == ["list"] * 4 + ["hide"] * 3


def two_upstreams(
    lists: dict[str, list[str] | None], provider: str = "generic", ttl: float = 60, **variables: str
) -> tuple[Catalog, dict[str, Listing]]:
    """A catalog over a Chat and a Responses upstream, of which the latter has the profile."""
    both = {f"{name}_BASE_URL": "http://up.test/v1" for name in ("CHAT", "RESPONSES")}
    settings = Settings.from_env({**both, **variables})
    listing: Any = {}
    for upstream in settings.upstreams:
        names = lists.get(upstream.name, [])
        refused = UpstreamRefused(404, {"message": "No list."})
        found: Any = Listing(refused if names is None else [{"id": name} for name in names])
        found.settings = upstream
        profile = PROFILES[provider if upstream.name == "responses" else "generic"]
        found.profile, found.get_profile = profile, lambda model, profile=profile: profile
        listing[upstream.name] = found
    upstreams: PerUpstream[Any] = PerUpstream(lambda u: listing[u.name], settings.upstreams)
    router = Router(settings)
    catalog = Catalog(router, upstreams, ttl)
    router.check_codex_helper = catalog.has_codex_helper
    return catalog, listing


USUAL = {"FORWARDER_DEFAULT_MODEL": "chat/usual"}
SMALL = {"FORWARDER_CODEX_HELPER_MODEL": "chat/small"}


@check_each(
    ("lists", "provider", "variables", "over_responses", "over_chat"),
    [
        ({"chat": ["qwen"]}, "generic", {}, "chat/*", "responses/*"),
        ({"chat": ["qwen"], "responses": ["gpt"]}, "generic", USUAL, "chat/usual", "chat/usual"),
        ({"chat": None, "responses": None}, "generic", USUAL, "chat/usual", "chat/usual"),
        ({"chat": ["gpt-5.6-luna"]}, "generic", USUAL, "chat/*", "chat/usual"),
        ({"chat": ["gpt-5.6-luna:latest"]}, "generic", USUAL, "chat/*", "chat/usual"),
        ({"responses": ["gpt-5.6-luna"]}, "generic", USUAL, "chat/usual", "responses/*"),
        ({"responses": ["gpt"]}, "openai", USUAL, "chat/usual", "responses/*"),
        ({"responses": ["gpt"]}, "openai", {**USUAL, **SMALL}, "chat/small", "chat/small"),
        ({"responses": ["gpt-5.6-luna"]}, "generic", SMALL, "chat/small", "chat/small"),
        ({"chat": ["qwen"]}, "generic", {"CHAT_MODELS": "fast=qwen"}, "chat/*", "responses/*"),
    ],
)
def test_codex_helper_models_are_substituted(
    lists: dict[str, list[str] | None],
    provider: str,
    variables: dict[str, str],
    over_responses: str,
    over_chat: str,
) -> None:
    found, _ = two_upstreams(lists, provider, **variables)

    for client, expected in (("responses", over_responses), ("chat", over_chat)):
        route = found._router.resolve("gpt-5.6-luna", client)
        got = f"{route.upstream.name}/{route.model}"
        assert got == expected.replace("*", "gpt-5.6-luna"), client


def test_helper_check_uses_lists_of_passthrough_upstreams() -> None:
    found, listing = two_upstreams({}, CHAT_API_KEY="passthrough", **USUAL)
    shared: Any = listing["chat"]
    shared.list_models = lambda timeout, key=None: [{"id": "gpt-5.6-luna"}] if key == "k" else []

    assert found._router.resolve("gpt-5.6-luna", "responses", "k").model == "gpt-5.6-luna"
    assert found._router.resolve("gpt-5.6-luna", "responses", "x").model == "usual"
    assert found._router.resolve("gpt-5.6-luna", "responses").model == "usual"


def test_refresh_of_a_list_does_not_delay_requests() -> None:
    found, listing = two_upstreams({"chat": ["gpt-5.6-luna"]}, ttl=0, **USUAL)
    resolve = found._router.resolve
    assert resolve("gpt-5.6-luna", "responses").model == "gpt-5.6-luna"
    asked, go_on = threading.Event(), threading.Event()

    def answer_late(timeout: float, client_key: str | None = None) -> list[Json]:
        asked.set()
        assert go_on.wait(10)
        return []

    slow: Any = listing["chat"]
    slow.list_models = answer_late
    began = time.monotonic()
    for _ in range(3):
        assert resolve("gpt-5.6-luna", "responses").model == "gpt-5.6-luna"
    assert time.monotonic() - began < 1
    assert asked.wait(10)
    go_on.set()
    while resolve("gpt-5.6-luna", "responses").model != "usual":
        assert time.monotonic() - began < 10


@check_each(
    ("provider", "variables", "reviewers"),
    [
        ("openai", {}, ["chat/qwen", "responses/codex-auto-review"]),
        ("openai", SMALL, ["chat/qwen", None]),
        ("openai", {"FORWARDER_UPSTREAMS": "responses"}, [None]),
        ("generic", USUAL, ["chat/qwen", "responses/gpt"]),
    ],
)
def test_codex_catalog_names_the_review_model(
    provider: str, variables: dict[str, str], reviewers: list[str | None]
) -> None:
    found, _ = two_upstreams({"chat": ["qwen"], "responses": ["gpt"]}, provider, **variables)

    entries = {e["slug"]: e["auto_review_model_override"] for e in found.list_codex_entries()}

    names = ["chat/qwen", "responses/gpt"]
    got = [entries[n] for n in names if n in entries] or [entries["gpt"]]
    assert got == reviewers


@pytest.mark.parametrize(
    "variables",
    [{"FORWARDER_CODEX_HELPER_MODEL": "chat/"}, {"FORWARDER_DEFAULT_MODEL": "chat/"}],
)
def test_unresolvable_model_does_not_break_the_lists(
    variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    lists: dict[str, list[str] | None] = {"chat": ["qwen"], "responses": ["codex-auto-review"]}
    found, _ = two_upstreams(lists, **variables)

    models = {model["id"] for model in found.list_models()}
    slugs = {entry["slug"] for entry in found.list_codex_entries()}

    assert {"chat/qwen", "qwen", "responses/codex-auto-review"} <= models & slugs
    assert "chat/" not in slugs
    assert "model_unresolvable" in caplog.text


@check_each(
    ("variables", "client", "owner"),
    [
        (USUAL, "responses", "chat"),
        ({"FORWARDER_CODEX_HELPER_MODEL": "responses/small"}, "responses", "responses"),
        ({}, "responses", None),
        ({}, "chat", "responses"),
        ({"FORWARDER_CODEX_HELPER_MODEL": "chat/"}, "responses", None),
    ],
)
def test_a_helper_s_name_is_a_model_where_it_is_served(
    variables: dict[str, str], client: str, owner: str | None
) -> None:
    found, _ = two_upstreams({"chat": ["qwen"], "responses": []}, "openai", **variables)

    for name in ("codex-auto-review", "gpt-5.6-luna:latest"):
        model = found.find_model(name, clients=(client,))
        assert model == (owner and {"id": name, "object": "model", "created": 0, "owned_by": owner})


def test_the_etag_is_another_one_after_a_change() -> None:
    settings = Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1"})
    editions = iter(["a", "a", "b"])
    found = Catalog(
        Router(settings), PerUpstream(lambda u: Listing([]), ()), 60, lambda: next(editions)
    )

    first, second, third = found.compute_etag(), found.compute_etag(), found.compute_etag()

    assert first == second != third
    assert first.startswith('W/"')
