"""Routing of model names to upstreams."""

from __future__ import annotations

import pytest

from forwarder.config.settings import Settings
from forwarder.core.errors import InvalidRequest, NotFound, UpstreamKeyRefused
from forwarder.models.registered_model import RegisteredModel
from forwarder.models.router import MAX_NAME_LENGTH, Router
from tests.helpers.check_cases import check_each

URL = "http://127.0.0.1:9/v1"
CLIENTS = ("chat", "responses")


def make_router(*upstreams: str, **settings: str) -> Router:
    """A router over upstreams written as ``name api models``, in this order."""
    parts = [(upstream + " ").split(" ")[:3] for upstream in upstreams]
    environ = {
        "FORWARDER_UPSTREAMS": ",".join(name for name, _, _ in parts),
        **{f"FORWARDER_{name.upper()}": value for name, value in settings.items()},
    }
    for name, api, models in parts:
        prefix = name.upper()
        environ |= {f"{prefix}_BASE_URL": URL, f"{prefix}_API": api, f"{prefix}_MODELS": models}
    return Router(Settings.from_env(environ))


def find_route(router: Router, model: str | None, client: str) -> str:
    """``upstream protocol model`` of the route."""
    route = router.resolve(model, client)
    return f"{route.upstream.name} {route.protocol} {route.model}"


# -- the default rule -----------------------------------------------------------------------------


@check_each(
    ("upstreams", "client", "expected"),
    [
        (("a chat", "b responses"), "responses", "a chat m"),
        (("a chat", "b responses"), "chat", "b responses m"),
        (("b responses", "a chat"), "responses", "a chat m"),
        (("b responses", "a chat"), "chat", "b responses m"),
        (("a chat", "b chat"), "responses", "a chat m"),
        (("a chat", "b chat"), "chat", "a chat m"),
        (("a both", "b chat"), "responses", "b chat m"),
        (("a both", "b chat"), "chat", "a chat m"),
        (("a chat",), "responses", "a chat m"),
        (("a chat",), "chat", "a chat m"),
        (("a responses",), "chat", "a responses m"),
        (("a responses",), "responses", "a responses m"),
        (("a both",), "chat", "a chat m"),
        (("a both",), "responses", "a responses m"),
    ],
)
def test_default_rule_prefers_the_first_upstream_of_the_other_protocol(
    upstreams: tuple[str, ...], client: str, expected: str
) -> None:
    assert find_route(make_router(*upstreams), "m", client) == expected


@check_each(
    ("upstreams", "model", "expected"),
    [
        (("b responses", "a chat"), "m", "a chat m"),
        (("a both", "b chat"), "m", "a chat m"),
        (("a responses", "b responses"), "m", "a responses m"),
        (("a chat", "b responses"), "b/m", "b responses m"),
        (("a chat", "b responses m=x"), "m", "b responses x"),
    ],
)
@check_each("client", ["ollama", "ollama_generate", "embeddings"])
def test_default_rule_selects_a_chat_upstream_for_other_apis(
    upstreams: tuple[str, ...], model: str, expected: str, client: str
) -> None:
    assert find_route(make_router(*upstreams), model, client) == expected


def test_without_configuration_the_demo_translates_for_each_client() -> None:
    demo = Router(Settings.from_env({}))
    assert find_route(demo, "demo", "chat") == "responses responses demo"
    assert find_route(demo, "demo", "responses") == "chat chat demo"


# -- model names ----------------------------------------------------------------------------------

THREE_UPSTREAMS = make_router(
    "first chat fast=qwen-turbo,qwen-*,deep/seek=v3",
    "second responses fast=gpt-mini,gpt-*,exact",
    "third chat fast=mini,qwen-max,gpt-*",
)


@check_each(
    ("model", "chat", "responses"),
    [
        # a prefix takes precedence; the upstream's own aliases apply to the rest of the name
        ("third/qwen-plus", "third chat qwen-plus", "third chat qwen-plus"),
        ("third/fast", "third chat mini", "third chat mini"),
        ("third/org/model", "third chat org/model", "third chat org/model"),
        ("third/first/fast", "third chat first/fast", "third chat first/fast"),
        ("first/deep/seek", "first chat v3", "first chat v3"),
        # a prefix that is no upstream is part of the model's name
        ("deep/seek", "first chat v3", "first chat v3"),
        ("org/model", "second responses org/model", "first chat org/model"),
        ("/fast", "second responses /fast", "first chat /fast"),
        ("third", "second responses third", "first chat third"),
        # an alias of several upstreams
        ("fast", "second responses gpt-mini", "first chat qwen-turbo"),
        # globs
        ("exact", "second responses exact", "second responses exact"),
        ("qwen-plus", "first chat qwen-plus", "first chat qwen-plus"),
        ("qwen-max", "first chat qwen-max", "first chat qwen-max"),
        ("gpt-5", "second responses gpt-5", "third chat gpt-5"),
        ("GPT-5", "second responses GPT-5", "first chat GPT-5"),
        # unknown name
        ("unknown", "second responses unknown", "first chat unknown"),
    ],
)
def test_prefix_alias_glob_and_default_in_this_order(model: str, chat: str, responses: str) -> None:
    assert find_route(THREE_UPSTREAMS, model, "chat") == chat
    assert find_route(THREE_UPSTREAMS, model, "responses") == responses


@check_each(
    ("model", "expected"),
    [
        ("claude-opus", "a chat big"),
        ("claude-haiku-9", "a chat small"),
        ("claude-own", "a chat claude-own"),
        ("other", "b chat any"),
        ("b/claude-opus", "b chat any"),
    ],
)
def test_alias_may_be_a_pattern(model: str, expected: str) -> None:
    router = make_router("a chat claude-opus=big,claude-own,claude-*=small", "b chat *=any")
    assert find_route(router, model, "messages") == expected
    assert [name for name, _ in router.list_models()] == ["claude-opus", "claude-own"]


def test_alias_precedes_a_glob_of_an_earlier_upstream() -> None:
    router = make_router("a chat fa*", "b chat fast=m")
    assert find_route(router, "fast", "chat") == "b chat m"


def test_alias_is_not_resolved_twice() -> None:
    assert find_route(make_router("a chat x=y,y=z"), "x", "chat") == "a chat y"


# -- fallbacks ------------------------------------------------------------------------------------


def list_routes(model: str, client: str, **fallbacks: str) -> list[str]:
    """The routes in their order, over a Chat upstream, a Responses upstream and one of both."""
    urls = {f"{name}_BASE_URL": "http://up.test/v1" for name in "ABC"}
    settings = Settings.from_env(
        {
            "FORWARDER_UPSTREAMS": "a,b,c",
            **urls,
            "B_API": "responses",
            "C_API": "both",
            "A_MODELS": "fast=qwen-turbo",
            "C_MODELS": "fast=gpt-mini,qwen-turbo=other",
            **{f"{name}_FALLBACK": targets for name, targets in fallbacks.items()},
        }
    )
    routes = Router(settings).list_routes(model, client)
    return [f"{r.upstream.name} {r.protocol} {r.model}" for r in routes]


@check_each(
    ("model", "client", "fallbacks", "expected"),
    [
        ("a/m", "chat", "", ["a chat m"]),
        ("a/m", "chat", "b,c", ["a chat m", "b responses m", "c chat m"]),
        ("a/m", "responses", "c,b", ["a chat m", "c responses m", "b responses m"]),
        ("a/m", "chat", "b/gpt", ["a chat m", "b responses gpt"]),
        ("a/m", "chat", "b/org/gpt", ["a chat m", "b responses org/gpt"]),
        ("a/m", "chat", "c/fast", ["a chat m", "c chat gpt-mini"]),
        # the client's name if the fallback has it, else the name of the first upstream
        (
            "a/fast",
            "chat",
            "c,b",
            ["a chat qwen-turbo", "c chat gpt-mini", "b responses qwen-turbo"],
        ),
        ("a/qwen-turbo", "chat", "c", ["a chat qwen-turbo", "c chat other"]),
    ],
)
def test_fallbacks_follow_the_first_route_in_their_order(
    model: str, client: str, fallbacks: str, expected: list[str]
) -> None:
    assert list_routes(model, client, A=fallbacks) == expected


def test_fallbacks_of_fallbacks_are_ignored() -> None:
    assert list_routes("a/m", "chat", A="b", B="c") == ["a chat m", "b responses m"]


# -- no model -------------------------------------------------------------------------------------


@check_each("model", [None, ""])
def test_request_without_a_model_uses_the_default_model(model: str | None) -> None:
    router = make_router("a chat", "b chat fast=m", default_model="fast")
    assert find_route(router, model, "chat") == "b chat m"


@check_each("model", [None, ""])
def test_request_without_model_and_default_model_is_rejected(model: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_router("a chat").resolve(model, "chat")
    assert (caught.value.param, caught.value.code) == ("model", "missing_required_parameter")


def test_upstream_prefix_without_model_is_not_found() -> None:
    with pytest.raises(NotFound) as caught:
        THREE_UPSTREAMS.resolve("first/", "chat")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
    assert "'first/'" in caught.value.message


# -- listed names ---------------------------------------------------------------------------------


def test_listed_names_of_configured_models_resolve_to_them() -> None:
    assert THREE_UPSTREAMS.list_models() == [
        ("first/fast", "first"),
        ("deep/seek", "first"),
        ("second/fast", "second"),
        ("exact", "second"),
        ("third/fast", "third"),
        ("third/qwen-max", "third"),
    ]


def test_patterns_are_not_listed() -> None:
    assert make_router("a chat qwen-*,gpt-?,m[12]").list_models() == []


def test_models_of_a_single_upstream_have_plain_names() -> None:
    assert make_router("a chat fast=m,n").list_models() == [("fast", "a"), ("n", "a")]


@check_each(
    ("upstream", "model", "public"),
    [
        ("first", "qwen-plus", "qwen-plus"),
        ("third", "qwen-plus", "third/qwen-plus"),
        ("second", "gpt-5", "second/gpt-5"),  # for a Responses client the route is the third
        ("second", "unknown", "second/unknown"),
        ("third", "first/m", "third/first/m"),
    ],
)
def test_public_id_resolves_to_the_model_for_both_client_apis(
    upstream: str, model: str, public: str
) -> None:
    assert THREE_UPSTREAMS.make_public_id(upstream, model) == public
    for client in CLIENTS:
        route = THREE_UPSTREAMS.resolve(public, client)
        assert (route.upstream.name, route.model) == (upstream, model)


def test_public_id_has_a_prefix_if_an_alias_has_the_name() -> None:
    assert make_router("a chat fast=m").make_public_id("a", "fast") == "a/fast"


# -- the default tag --------------------------------------------------------------------------


@check_each(
    ("models", "name", "expected"),
    [
        ("fast=quick", "fast:latest", "a chat quick"),
        ("fast:latest=quick", "fast", "a chat quick"),
        ("fast=quick,fast:latest=other", "fast:latest", "a chat other"),
        ("llama3", "llama3:latest", "a chat llama3"),
        ("llama3:latest", "llama3", "a chat llama3:latest"),
        ("llama*", "llama3:latest", "a chat llama3"),
        ("qwen3:*", "qwen3:latest", "a chat qwen3:latest"),
        ("", "anything:latest", "b responses anything"),
        ("", "anything:8b", "b responses anything:8b"),
        ("fast=quick", "a/fast:latest", "a chat quick"),
        ("", "a/anything:latest", "a chat anything"),
    ],
)
def test_tag_latest_is_optional(models: str, name: str, expected: str) -> None:
    assert find_route(make_router(f"a chat {models}", "b responses"), name, "chat") == expected


def test_public_id_keeps_a_listed_tag() -> None:
    assert make_router("a chat").make_public_id("a", "llama3:latest") == "llama3:latest"


# -- registered models ------------------------------------------------------------------------

REGISTERED_MODEL = RegisteredModel("mine:latest", "m", "https://remote.test/v1", system="Be kind.")


def make_registered_router(
    *remotes: RegisteredModel, models: str = "fast=quick,mine=other"
) -> Router:
    """A router with these registered models and one upstream."""
    remotes_by_name = {
        name: r for r in remotes for name in (r.name, r.name.removesuffix(":latest"))
    }
    settings = Settings.from_env({"CHAT_BASE_URL": URL, "CHAT_MODELS": models})
    return Router(settings, remotes_by_name.get, lambda: remotes)


@check_each("name", ["mine", "mine:latest"])
@check_each("client", CLIENTS)
def test_registered_model_precedes_an_alias(name: str, client: str) -> None:
    [route] = make_registered_router(REGISTERED_MODEL).list_routes(name, client)

    assert route == make_registered_router(REGISTERED_MODEL).resolve(name, client)
    assert (route.upstream, route.protocol, route.model) == (REGISTERED_MODEL.upstream, "chat", "m")
    assert route.defaults.system == "Be kind."


def test_upstream_prefix_selects_the_upstream() -> None:
    assert (
        find_route(make_registered_router(REGISTERED_MODEL), "chat/mine", "chat")
        == "chat chat other"
    )
    assert make_registered_router(REGISTERED_MODEL).find_registered("chat/mine") is None


def test_registered_model_may_be_the_default() -> None:
    settings = Settings.from_env({"CHAT_BASE_URL": URL, "FORWARDER_DEFAULT_MODEL": "mine"})

    assert Router(settings, {"mine": REGISTERED_MODEL}.get).resolve(None, "chat").model == "m"


def test_copy_routes_like_its_source_with_own_defaults() -> None:
    copied = RegisteredModel("kind:latest", "fast", system="Be kind.")
    route = make_registered_router(copied).resolve("kind", "responses")

    assert (route.upstream.name, route.model) == ("chat", "quick")
    assert route.defaults is copied.defaults
    [listed] = make_registered_router(copied).list_routes("kind", "responses")
    assert listed == route
    assert make_registered_router(copied).resolve("fast", "chat").defaults.system is None


def test_registered_model_never_resolves_to_itself() -> None:
    model = RegisteredModel("fast:latest", "fast")

    assert make_registered_router(model).resolve("fast", "chat").model == "quick"


def test_locked_model_raises_key_refused() -> None:
    locked_model = RegisteredModel("lost:latest", "m", "https://remote.test/v1", locked=True)

    for resolve in (
        make_registered_router(locked_model).resolve,
        make_registered_router(locked_model).list_routes,
    ):
        with pytest.raises(UpstreamKeyRefused, match="'lost' cannot be decrypted"):
            resolve("lost", "chat")


def test_registered_models_are_listed_first_and_replace_aliases() -> None:
    assert make_registered_router(REGISTERED_MODEL).list_models() == [
        ("mine", "registered"),
        ("fast", "chat"),
        ("chat/mine", "chat"),
    ]
    assert make_registered_router(REGISTERED_MODEL).find_owner("mine:latest") == "registered"
    assert make_registered_router(REGISTERED_MODEL).find_owner("fast:latest") == "chat"
    assert make_registered_router(REGISTERED_MODEL).find_owner("nobody") is None


# -- helper models that Codex requests ------------------------------------------------------------


HELPERS = ["codex-auto-review", "gpt-5.6-luna", "gpt-5.6-terra"]


def make_codex_router(*owners: str, **settings: str) -> Router:
    """A router over a Chat and a Responses upstream. ``owners`` list Codex's helper models."""
    router = make_router("a chat x=y", "b responses", **settings)
    router.check_codex_helper = lambda upstream, name, key: upstream in owners
    return router


@check_each("name", HELPERS)
@check_each(
    ("owners", "client", "expected"),
    [
        ("", "responses", "a chat y"),
        ("", "chat", "a chat y"),
        ("a", "responses", "a chat {}"),
        ("b", "responses", "a chat y"),
        ("a", "chat", "a chat y"),
        ("b", "chat", "b responses {}"),
        ("b", "ollama", "a chat y"),
    ],
)
def test_default_model_replaces_a_name_the_client_upstream_lacks(
    name: str, owners: str, client: str, expected: str
) -> None:
    router = make_codex_router(*owners, default_model="x")

    assert find_route(router, name, client) == expected.format(name)
    assert find_route(router, f"{name}:latest", client) == expected.format(name)
    assert find_route(router, "gpt-5.5", client) != "a chat y"


@check_each("client", ["chat", "responses"])
def test_codex_helper_setting_overrides_upstream_helper_models(client: str) -> None:
    router = make_codex_router("a", "b", default_model="x", codex_helper_model="b/small")

    assert find_route(router, "codex-auto-review", client) == "b responses small"


@check_each(
    ("client", "expected"),
    [("responses", "a chat codex-auto-review"), ("chat", "b responses codex-auto-review")],
)
def test_name_is_unchanged_without_a_substitute_model(client: str, expected: str) -> None:
    assert find_route(make_codex_router(), "codex-auto-review", client) == expected


@check_each("models", ["gpt-5.6-luna=mine", "gpt-*"])
def test_alias_and_pattern_precede_the_substitute_model(models: str) -> None:
    router = make_router("a chat", f"b responses {models}", codex_helper_model="a/other")

    assert find_route(router, "gpt-5.6-luna", "responses").startswith("b responses")
    assert find_route(router, "a/gpt-5.6-luna", "responses") == "a chat gpt-5.6-luna"


def test_registered_model_is_never_a_substitute() -> None:
    """The owner of such a model could approve commands of other users."""
    registered_model = RegisteredModel("mine:latest", "m", "https://remote.test/v1")

    def find_model(name: str) -> RegisteredModel | None:
        return registered_model if name in ("mine", "mine:latest") else None

    environment = {"CHAT_BASE_URL": URL, "FORWARDER_CODEX_HELPER_MODEL": "mine"}
    router = Router(Settings.from_env({**environment, "FORWARDER_DEFAULT_MODEL": "x"}), find_model)
    assert find_route(router, "codex-auto-review", "responses") == "chat chat x"

    environment["FORWARDER_DEFAULT_MODEL"] = "mine"
    router = Router(Settings.from_env(environment), find_model)
    assert find_route(router, "codex-auto-review", "responses") == "chat chat codex-auto-review"


@check_each("name", ["kind", "codex-auto-review"])
def test_model_registered_from_a_helper_name_uses_the_substitute(name: str) -> None:
    copied = RegisteredModel(f"{name}:latest", "codex-auto-review", system="Be kind.")
    environment = {"CHAT_BASE_URL": URL, "FORWARDER_DEFAULT_MODEL": "x"}
    router = Router(Settings.from_env(environment), {name: copied}.get)

    route = router.resolve(name, "responses")

    assert (route.upstream.name, route.model) == ("chat", "x")
    assert route.defaults.system == "Be kind."


def test_helper_check_uses_the_client_key() -> None:
    router = make_router("a chat", "b responses", default_model="a/x")
    router.check_codex_helper = lambda upstream, name, key: (upstream, key) == ("a", "k")

    assert router.resolve("gpt-5.6-luna", "responses", "k").model == "gpt-5.6-luna"
    assert router.resolve("gpt-5.6-luna", "responses").model == "x"
    assert router.resolve("gpt-5.6-luna", "chat", "k").model == "x"


def test_owner_of_a_helper_name_is_the_serving_upstream() -> None:
    assert make_codex_router().find_owner("codex-auto-review") is None
    assert make_codex_router("a").find_owner("codex-auto-review") == "a"
    assert make_codex_router("a").find_owner("codex-auto-review", ("chat",)) is None
    assert make_codex_router("b").find_owner("codex-auto-review:latest", ("chat",)) == "b"
    assert make_codex_router(default_model="b/x").find_owner("gpt-5.6-luna") == "b"
    assert make_codex_router(default_model="b/x").find_owner("gpt-5.5") is None


def test_unresolvable_substitute_does_not_break_the_lists(caplog: pytest.LogCaptureFixture) -> None:
    router = make_codex_router(codex_helper_model="a/")

    for _ in range(2):
        assert router.make_public_id("a", "codex-auto-review") == "a/codex-auto-review"
        assert not router.is_same_model("codex-auto-review", "a/codex-auto-review", ("responses",))
        assert router.find_owner("codex-auto-review") is None

    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.msg["model"] == "codex-auto-review"
    with pytest.raises(NotFound, match="'a/'"):
        router.resolve("codex-auto-review", "responses")


def test_names_that_are_too_long_are_rejected() -> None:
    router, longest = make_router("a chat"), "m" * MAX_NAME_LENGTH

    assert find_route(router, longest, "chat") == f"a chat {longest}"
    with pytest.raises(InvalidRequest) as caught:
        router.resolve(longest + "m", "chat")
    assert (caught.value.param, caught.value.code) == ("model", "string_above_max_length")


# -- groups ---------------------------------------------------------------------------------------

GROUPS = "fast=b/one*2,a/quick>a/three; gpt-5.6-luna=a/helper"


def make_group_router(**settings: str) -> Router:
    return make_router("a chat quick=turbo,fast=alias", "b responses", groups=GROUPS, **settings)


@check_each("client", CLIENTS)
@check_each("name", ["fast", "fast:latest"])
def test_group_resolves_to_its_members_in_their_order(client: str, name: str) -> None:
    routes = make_group_router().list_routes(name, client)

    assert [(route.upstream.name, route.protocol, route.model) for route in routes] == [
        ("b", "responses", "one"),
        ("a", "chat", "turbo"),  # an alias of that upstream
        ("a", "chat", "three"),
    ]
    members = [route.member for route in routes if route.member is not None]
    assert [(route.weight, route.order) for route in members] == [(2, 0), (1, 0), (1, 1)]


def test_group_overrides_an_alias_but_not_a_prefixed_name() -> None:
    router = make_group_router()

    assert find_route(router, "fast", "chat") == "b responses one"
    assert find_route(router, "a/fast", "chat") == "a chat alias"
    assert find_route(router, "quick", "chat") == "a chat turbo"
    assert router.list_routes("a/fast", "chat")[0].member is None


def test_group_may_be_the_default_model_or_a_helper_model() -> None:
    router = make_group_router(default_model="fast")

    assert find_route(router, None, "chat") == "b responses one"
    assert find_route(router, "gpt-5.6-luna", "responses") == "a chat helper"


def test_groups_are_listed_and_hidden_by_registered_models() -> None:
    router = make_group_router()

    assert ("fast", "group") in router.list_models()
    assert router.find_owner("fast") == "group"
    assert ("a/fast", "a") in router.list_models()
    assert not router.is_same_model("fast", "b/one", CLIENTS)
    assert router.make_public_id("b", "fast") == "b/fast"

    registered_model = RegisteredModel(name="fast:latest", model="a/three")
    router_with_registered = Router(
        Settings.from_env(
            {"FORWARDER_UPSTREAMS": "a,b", "A_BASE_URL": URL, "B_BASE_URL": URL,
             "FORWARDER_GROUPS": GROUPS}
        ),
        lambda name: registered_model if name == "fast" else None,
    )  # fmt: skip
    assert find_route(router_with_registered, "fast", "chat") == "a chat three"
    assert router_with_registered.find_owner("fast") == "registered"
    assert ("fast", "group") not in router_with_registered.list_models()
