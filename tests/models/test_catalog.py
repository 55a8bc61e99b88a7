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

    def __init__(self, models: list[Json] | ForwarderError, passthrough: bool = False) -> None:
        self.models = models
        self.settings = SimpleNamespace(passthrough_key=passthrough)
        self.key_refusal: str | None = None
        self.request_count = 0
        self.keys: list[str | None] = []

    def list_models(self, timeout: float, client_key: str | None = None) -> list[Json]:
        assert 0 < timeout < 30
        self.request_count += 1
        self.keys.append(client_key)
        if self.settings.passthrough_key:
            return [{"id": f"for-{client_key}"}] if client_key else []
        if isinstance(self.models, ForwarderError):
            raise self.models
        return self.models


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
    upstream_settings = [u for u in settings.upstreams if u.name in listing]
    upstreams: PerUpstream[Any] = PerUpstream(lambda u: listing[u.name], upstream_settings)
    return Catalog(Router(settings), upstreams, ttl)


def test_listed_names_resolve_to_their_upstream() -> None:
    catalog = make_default_catalog(
        chat=Listing([{"id": "qwen", "context": 9}]), responses=Listing([{"id": "gpt"}])
    )

    models = {model["id"]: model for model in catalog.list_models()}

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
def test_plain_names_are_listed_if_they_resolve_to_the_model(
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
    catalog = make_catalog(Settings.from_env(environment), listing, 60)

    names = {model["id"] for model in catalog.list_models(clients=clients)}

    prefixed = {"chat/qwen", "chat/both", "chat/fast", "responses/gpt", "responses/both"}
    prefixed |= {"responses/fast", "responses/other"}
    assert names == prefixed | plain | {"other"}  # the alias
    for name in plain:
        routes = [catalog._router.resolve(name, client) for client in clients]
        assert any(f"{r.upstream.name}/{name}" in names for r in routes)


def test_codex_entries_have_plain_names_that_resolve_to_the_model() -> None:
    environment = {"CHAT_BASE_URL": "http://up.test/v1", "RESPONSES_BASE_URL": "http://up.test/v1"}
    settings = Settings.from_env(environment)
    listing: Any = {"chat": Listing([{"id": "qwen"}]), "responses": Listing([{"id": "gpt"}])}
    for upstream in settings.upstreams:
        listing[upstream.name].settings = upstream
        listing[upstream.name].get_profile = lambda model: PROFILES["generic"]

    entries = make_catalog(settings, listing, 60).list_codex_entries()

    listed = [e["slug"] for e in entries if e["visibility"] == "list"]
    assert listed == ["chat/qwen", "qwen", "responses/gpt"]


def test_configured_models_are_listed_first_and_once() -> None:
    catalog = make_default_catalog(
        models="fast=qwen-turbo,qwen-max,qwen-*",
        chat=Listing([{"id": "qwen-max"}, {"id": "qwen-x"}]),
        responses=Listing([]),
    )

    assert [model["id"] for model in catalog.list_models()] == ["fast", "qwen-max", "qwen-x"]


def test_failing_upstream_does_not_hide_other_lists() -> None:
    catalog = make_default_catalog(
        chat=Listing(UpstreamUnreachable("gone")), responses=Listing([{"id": "gpt"}])
    )

    assert [model["id"] for model in catalog.list_models()] == ["responses/gpt", "gpt"]


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
def test_upstream_is_reachable_if_it_answers(
    listed: list[Json] | ForwarderError, state: Json
) -> None:
    assert (
        make_default_catalog(chat=Listing(listed), responses=Listing([])).describe_states()["chat"]
        == state
    )


def test_state_reports_refused_key_beside_a_public_list() -> None:
    chat = Listing([{"id": "a"}])
    catalog = make_default_catalog(chat=chat)
    chat.key_refusal = "no key"

    expected = {"reachable": True, "models": 1, "error": "no key", "key_accepted": False}
    assert catalog.describe_states()["chat"] == expected

    chat.key_refusal = None
    assert catalog.describe_states()["chat"] == {"reachable": True, "models": 1}


def test_model_lists_are_cached() -> None:
    chat = Listing([])
    caching, uncached = make_default_catalog(chat=chat), make_default_catalog(ttl=0, chat=chat)

    for _ in range(3):
        caching.list_models()
        caching.describe_states()
    assert chat.request_count == 1
    for _ in range(3):
        uncached.describe_states()
    assert chat.request_count == 4


def test_client_key_is_used_for_passthrough_upstreams() -> None:
    chat, responses = Listing([], passthrough=True), Listing([{"id": "gpt"}])
    catalog = make_default_catalog(chat=chat, responses=responses)

    def list_ids(key: str | None) -> list[str]:
        return [model["id"] for model in catalog.list_models(key) if "/" in model["id"]]

    assert list_ids("a") == ["chat/for-a", "responses/gpt"]
    assert list_ids("b") == ["chat/for-b", "responses/gpt"]
    assert list_ids(None) == ["responses/gpt"]
    assert list_ids("a") == ["chat/for-a", "responses/gpt"]
    assert chat.keys == [None, "a", "b"]
    assert responses.keys == [None]


def test_number_of_cached_lists_is_limited() -> None:
    chat = Listing([], passthrough=True)
    catalog = make_default_catalog(chat=chat, responses=Listing([]))

    for number in range(300):
        catalog.list_models(f"key-{number}")
    catalog.list_models("key-299")
    assert chat.keys.count("key-299") == 1
    catalog.list_models("key-0")
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
def test_unlisted_model_is_found_by_its_route(name: str, owner: str) -> None:
    listing = {"chat": Listing([{"id": "listed"}]), "responses": Listing([])}
    model = make_default_catalog(models="fast=qwen-turbo,qwen-*,listed", **listing).find_model(name)

    assert model == {"id": name, "object": "model", "created": 0, "owned_by": owner}


@check_each("name", ["other", "chat/", "nobody/model"])
def test_model_of_the_default_rule_is_not_found(name: str) -> None:
    listing = {"chat": Listing([]), "responses": Listing([])}
    assert make_default_catalog(models="qwen-*", **listing).find_model(name) is None


@check_each("name", ["llama", "llama:latest", "chat/llama:latest"])
@check_each("listed", ["llama", "llama:latest"])
def test_listed_model_is_found_with_and_without_tag(name: str, listed: str) -> None:
    listing = {"chat": Listing([{"id": listed, "created": 7}]), "responses": Listing([])}

    model = make_default_catalog(**listing).find_model(name if "/" in name else f"chat/{name}")

    assert model is not None
    assert (model["id"], model["created"]) == (f"chat/{listed}", 7)


@check_each(
    ("chat", "expected"),
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
    chat: list[Json] | ForwarderError, expected: Json | None
) -> None:
    listing = {"chat": Listing(chat), "responses": Listing([{"id": "gpt"}])}

    served = make_default_catalog(**listing).find_served_model("qwen", "ollama")

    assert served == (expected and {"object": "model", **expected})
    assert make_default_catalog(models="fast=qwen", **listing).find_served_model("fast", "ollama")


def test_served_model_uses_lists_of_passthrough_upstreams() -> None:
    listing = {"chat": Listing([], passthrough=True), "responses": Listing([])}

    assert make_default_catalog(**listing).find_served_model("for-k", "ollama", "k")
    assert make_default_catalog(**listing).find_served_model("for-x", "ollama", "k") is None


def test_codex_entries_include_listed_and_configured_models() -> None:
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


def make_catalog_of_two_upstreams(
    lists: dict[str, list[str] | None], provider: str = "generic", ttl: float = 60, **variables: str
) -> tuple[Catalog, dict[str, Listing]]:
    """A catalog over a Chat and a Responses upstream; ``provider`` is the profile of the latter."""
    base_urls = {f"{name}_BASE_URL": "http://up.test/v1" for name in ("CHAT", "RESPONSES")}
    settings = Settings.from_env({**base_urls, **variables})
    listing: Any = {}
    for upstream in settings.upstreams:
        names = lists.get(upstream.name, [])
        refusal = UpstreamRefused(404, {"message": "No list."})
        upstream_listing: Any = Listing(
            refusal if names is None else [{"id": name} for name in names]
        )
        upstream_listing.settings = upstream
        profile = PROFILES[provider if upstream.name == "responses" else "generic"]
        upstream_listing.profile, upstream_listing.get_profile = (
            profile,
            lambda model, profile=profile: profile,
        )
        listing[upstream.name] = upstream_listing
    upstreams: PerUpstream[Any] = PerUpstream(lambda u: listing[u.name], settings.upstreams)
    router = Router(settings)
    catalog = Catalog(router, upstreams, ttl)
    router.check_codex_helper = catalog.has_codex_helper
    return catalog, listing


DEFAULT_MODEL = {"FORWARDER_DEFAULT_MODEL": "chat/usual"}
HELPER_MODEL = {"FORWARDER_CODEX_HELPER_MODEL": "chat/small"}


@check_each(
    ("lists", "provider", "variables", "over_responses", "over_chat"),
    [
        ({"chat": ["qwen"]}, "generic", {}, "chat/*", "responses/*"),
        (
            {"chat": ["qwen"], "responses": ["gpt"]},
            "generic",
            DEFAULT_MODEL,
            "chat/usual",
            "chat/usual",
        ),
        ({"chat": None, "responses": None}, "generic", DEFAULT_MODEL, "chat/usual", "chat/usual"),
        ({"chat": ["gpt-5.6-luna"]}, "generic", DEFAULT_MODEL, "chat/*", "chat/usual"),
        ({"chat": ["gpt-5.6-luna:latest"]}, "generic", DEFAULT_MODEL, "chat/*", "chat/usual"),
        ({"responses": ["gpt-5.6-luna"]}, "generic", DEFAULT_MODEL, "chat/usual", "responses/*"),
        ({"responses": ["gpt"]}, "openai", DEFAULT_MODEL, "chat/usual", "responses/*"),
        (
            {"responses": ["gpt"]},
            "openai",
            {**DEFAULT_MODEL, **HELPER_MODEL},
            "chat/small",
            "chat/small",
        ),
        ({"responses": ["gpt-5.6-luna"]}, "generic", HELPER_MODEL, "chat/small", "chat/small"),
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
    catalog, _ = make_catalog_of_two_upstreams(lists, provider, **variables)

    for client, expected in (("responses", over_responses), ("chat", over_chat)):
        route = catalog._router.resolve("gpt-5.6-luna", client)
        resolved = f"{route.upstream.name}/{route.model}"
        assert resolved == expected.replace("*", "gpt-5.6-luna"), client


def test_helper_check_uses_lists_of_passthrough_upstreams() -> None:
    catalog, listing = make_catalog_of_two_upstreams(
        {}, CHAT_API_KEY="passthrough", **DEFAULT_MODEL
    )
    passthrough: Any = listing["chat"]
    passthrough.list_models = lambda timeout, key=None: (
        [{"id": "gpt-5.6-luna"}] if key == "k" else []
    )

    assert catalog._router.resolve("gpt-5.6-luna", "responses", "k").model == "gpt-5.6-luna"
    assert catalog._router.resolve("gpt-5.6-luna", "responses", "x").model == "usual"
    assert catalog._router.resolve("gpt-5.6-luna", "responses").model == "usual"


def test_refresh_of_a_list_does_not_delay_requests() -> None:
    catalog, listing = make_catalog_of_two_upstreams(
        {"chat": ["gpt-5.6-luna"]}, ttl=0, **DEFAULT_MODEL
    )
    resolve = catalog._router.resolve
    assert resolve("gpt-5.6-luna", "responses").model == "gpt-5.6-luna"
    requested, release = threading.Event(), threading.Event()

    def answer_late(timeout: float, client_key: str | None = None) -> list[Json]:
        requested.set()
        assert release.wait(10)
        return []

    slow_listing: Any = listing["chat"]
    slow_listing.list_models = answer_late
    started_at = time.monotonic()
    for _ in range(3):
        assert resolve("gpt-5.6-luna", "responses").model == "gpt-5.6-luna"
    assert time.monotonic() - started_at < 1
    assert requested.wait(10)
    release.set()
    while resolve("gpt-5.6-luna", "responses").model != "usual":
        assert time.monotonic() - started_at < 10


@check_each(
    ("provider", "variables", "reviewers"),
    [
        ("openai", {}, ["chat/qwen", "responses/codex-auto-review"]),
        ("openai", HELPER_MODEL, ["chat/qwen", None]),
        ("openai", {"FORWARDER_UPSTREAMS": "responses"}, [None]),
        ("generic", DEFAULT_MODEL, ["chat/qwen", "responses/gpt"]),
    ],
)
def test_codex_catalog_names_the_review_model(
    provider: str, variables: dict[str, str], reviewers: list[str | None]
) -> None:
    catalog, _ = make_catalog_of_two_upstreams(
        {"chat": ["qwen"], "responses": ["gpt"]}, provider, **variables
    )

    entries = {e["slug"]: e["auto_review_model_override"] for e in catalog.list_codex_entries()}

    names = ["chat/qwen", "responses/gpt"]
    overrides = [entries[n] for n in names if n in entries] or [entries["gpt"]]
    assert overrides == reviewers


@pytest.mark.parametrize(
    "variables",
    [{"FORWARDER_CODEX_HELPER_MODEL": "chat/"}, {"FORWARDER_DEFAULT_MODEL": "chat/"}],
)
def test_unresolvable_model_does_not_break_the_lists(
    variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    lists: dict[str, list[str] | None] = {"chat": ["qwen"], "responses": ["codex-auto-review"]}
    catalog, _ = make_catalog_of_two_upstreams(lists, **variables)

    models = {model["id"] for model in catalog.list_models()}
    slugs = {entry["slug"] for entry in catalog.list_codex_entries()}

    assert {"chat/qwen", "qwen", "responses/codex-auto-review"} <= models & slugs
    assert "chat/" not in slugs
    assert "model_unresolvable" in caplog.text


@check_each(
    ("variables", "client", "owner"),
    [
        (DEFAULT_MODEL, "responses", "chat"),
        ({"FORWARDER_CODEX_HELPER_MODEL": "responses/small"}, "responses", "responses"),
        ({}, "responses", None),
        ({}, "chat", "responses"),
        ({"FORWARDER_CODEX_HELPER_MODEL": "chat/"}, "responses", None),
    ],
)
def test_served_helper_name_is_found_as_a_model(
    variables: dict[str, str], client: str, owner: str | None
) -> None:
    catalog, _ = make_catalog_of_two_upstreams(
        {"chat": ["qwen"], "responses": []}, "openai", **variables
    )

    for name in ("codex-auto-review", "gpt-5.6-luna:latest"):
        model = catalog.find_model(name, clients=(client,))
        assert model == (owner and {"id": name, "object": "model", "created": 0, "owned_by": owner})


def test_etag_changes_with_the_version() -> None:
    settings = Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1"})
    versions = iter(["a", "a", "b"])
    catalog = Catalog(
        Router(settings), PerUpstream(lambda u: Listing([]), ()), 60, lambda: next(versions)
    )

    first, second, third = catalog.compute_etag(), catalog.compute_etag(), catalog.compute_etag()

    assert first == second != third
    assert first.startswith('W/"')
