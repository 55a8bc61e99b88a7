"""Registration of models: validation, verification, storage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.core.errors import InvalidRequest, NotFound, Unsupported
from forwarder.core.ssrf import AddressGuard
from forwarder.models import registration
from forwarder.models.catalog import Catalog
from forwarder.models.registration import ModelRegistration
from forwarder.models.registry import DatabaseModelRegistry
from forwarder.models.router import Router
from forwarder.storage.db.database import SqliteDatabase
from forwarder.upstream.client import Upstream
from forwarder.upstream.upstream_map import PerUpstream
from tests.core.test_ssrf import resolving
from tests.models.remotes import (
    Answer,
    answer_normally,
    connect_upstream,
    refuse_connection,
    refusing,
)

HOSTS = {"remote.test": "8.8.8.8", "inner.test": "10.0.0.1", "gpu.test": "10.1.0.1",
         "mixed.test": "8.8.8.8 10.0.0.1"}  # fmt: skip
BODY = {"model": "mine", "from": "m", "remote_host": "https://remote.test/v1"}


class World:
    """A registration with its own registry and one remote for all hosts."""

    def __init__(self, path: Path) -> None:
        self.answer: Answer = answer_normally
        self.connected: list[UpstreamSettings] = []
        self.database = SqliteDatabase(path / "state.db")
        self.database.prepare()
        self.registry = DatabaseModelRegistry(self.database, ["s"], lambda settings: None)
        settings = Settings.from_env(
            {"CHAT_BASE_URL": "http://up.test/v1", "CHAT_MODELS": "fast=quick"}
        )
        router = Router(settings, self.registry.find, self.registry.list_models)
        upstreams = PerUpstream(lambda s: connect_upstream(refusing(404), s), settings.upstreams)
        guard = AddressGuard(["10.1.0.0/16"], resolving(**HOSTS))
        self.creating = ModelRegistration(
            self.registry, Catalog(router, upstreams, 60), guard, self.connect, {"chat"}
        )

    def connect(self, settings: UpstreamSettings) -> Upstream:
        self.connected.append(settings)
        return connect_upstream(lambda request: self.answer(request), settings)

    def reject_creation(self, **change: Any) -> InvalidRequest:
        """Return the error of a rejected request; checks that nothing was stored."""
        with pytest.raises(InvalidRequest) as caught:
            self.creating.create({**BODY, **change})
        assert self.registry.list_models() == []
        return caught.value


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.close()


def test_verified_model_is_stored_and_reported(world: World) -> None:
    created = world.creating.create({**BODY, "provider": "dashscope"})

    found = world.registry.find("mine")
    assert found is not None
    assert found.model == "m"
    told = {k: created.report[k] for k in ("provider", "verified", "reachable", "model_known")}
    assert told == {
        "provider": "dashscope",
        "verified": True,
        "reachable": True,
        "model_known": True,
    }


def test_a_model_that_only_embeds_is_looked_for_in_the_list(world: World) -> None:
    def answer_list_only(request: httpx2.Request) -> httpx2.Response:
        return (answer_normally if request.url.path.endswith("/models") else refusing(400))(request)

    world.answer = answer_list_only
    info = {"capabilities": ["embedding"]}
    assert world.reject_creation(info={"capabilities": ["embedding", "completion"]}).param == "from"

    created = world.creating.create({**BODY, "info": info})

    assert (created.report["key_accepted"], created.report["model_known"]) == (True, True)
    assert world.creating.probe_registered(created.remote).is_model_known is True
    world.answer = refusing(401)
    with pytest.raises(InvalidRequest) as caught:
        world.creating.create({**BODY, "info": info})
    assert caught.value.param == "remote_api_key"


def test_verification_can_be_disabled(world: World) -> None:
    world.answer = refuse_connection

    created = world.creating.create({**BODY, "verify": False})

    assert created.report == {"provider": "generic", "verified": False}
    assert world.registry.find("mine")


@pytest.mark.parametrize(
    ("answer", "param", "words"),
    [
        (refuse_connection, "remote_host", "wrong or the host is down"),
        (refusing(307), "remote_host", "redirect"),
        (refusing(401), "remote_api_key", "does not accept"),
        (refusing(404, "no such model: m"), "from", "does not have the model"),
        (refusing(400, "odd"), "from", "rejected a test request"),
    ],
)
def test_failed_verification_names_the_parameter(
    world: World, answer: Answer, param: str, words: str
) -> None:
    world.answer = answer

    error = world.reject_creation(remote_api_key="sk-secret-key")

    assert error.param == param
    assert words in error.message
    assert "sk-secret-key" not in error.message


def test_silent_upstream_times_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def comments() -> Iterator[bytes]:
        for _ in range(500):
            time.sleep(0.01)
            yield b": wait\n\n"

    monkeypatch.setattr(registration, "CHECK_TIMEOUT_SECONDS", 0.05)
    world.answer = lambda request: httpx2.Response(200, content=comments())

    assert "took too long" in world.reject_creation().message


@pytest.mark.parametrize(
    "host",
    [
        "https://169.254.169.254/latest",
        "https://127.0.0.1/v1",
        "https://[::1]/v1",
        "https://localhost/v1",
        "https://inner.test/v1",
        "https://0x7f.1/v1",
        "https://gone.invalid/v1",
        "http://remote.test/v1",
        "http://mixed.test/v1",
        "https://löcal.test/v1",
    ],
)
def test_forbidden_host_is_not_contacted(world: World, host: str) -> None:
    assert world.reject_creation(remote_host=host, verify=False).param == "remote_host"
    assert world.connected == []


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("https://inner.test/v1", "it has no public address"),
        ("https://no-such-host.invalid/v1", "'no-such-host.invalid' cannot be resolved"),
    ],
)
def test_an_unknown_host_differs_from_a_private_one(host: str, why: str, world: World) -> None:
    for verify in (False, True):
        assert why in world.reject_creation(remote_host=host, verify=verify).message


@pytest.mark.parametrize("host", ["http://gpu.test/v1", "https://gpu.test/v1", "http://10.1.2.3"])
def test_a_private_host_that_the_operator_names_may_go_without_tls(world: World, host: str) -> None:
    world.creating.create({**BODY, "remote_host": host})

    assert world.connected[0].base_url == host


def test_verification_times_out(world: World) -> None:
    world.creating.create(BODY)

    assert world.connected[0].first_byte_timeout < 30


def test_prefix_of_a_configured_upstream_is_reserved(world: World) -> None:
    error = world.reject_creation(model="chat/mine")

    assert error.param == "model"
    with pytest.raises(InvalidRequest, match="'chat/'"):
        world.creating.copy("fast", "chat/x")


# -- copies -----------------------------------------------------------------------------------


def test_a_registered_model_is_copied_with_its_key(world: World) -> None:
    world.creating.create({**BODY, "remote_api_key": "sk-1", "parameters": {"top_p": 0.5}})
    world.creating.create(
        {"model": "kind", "from": "mine", "system": "Be kind.", "parameters": {"seed": 1}}
    )

    kind = world.registry.find("kind")
    assert kind
    assert (kind.host, kind.key, kind.system) == ("https://remote.test/v1", "sk-1", "Be kind.")
    assert kind.parameters == {"top_p": 0.5, "seed": 1}


@pytest.mark.parametrize("source", ["fast", "fast:latest", "chat/anything"])
def test_a_configured_model_has_another_name(world: World, source: str) -> None:
    world.creating.copy(source, "other:1")

    other = world.registry.find("other:1")
    assert other
    assert (other.host, other.model) == ("", source)


def test_copy_of_an_unknown_model_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match="model 'gone' not found") as caught:
        world.creating.copy("gone", "other")
    assert caught.value.param == "source"
    with pytest.raises(NotFound) as caught:
        world.creating.create({"model": "other", "from": "gone"})
    assert caught.value.param == "from"
    with pytest.raises(InvalidRequest):
        world.creating.copy("fast", "a b")


SECRETS = {
    "remote_api_key": "sk-1",
    "remote_headers": {"X-Org": "org"},
    "remote_query": {"version": "1"},
}


def test_model_takes_over_the_secrets_of_the_one_that_it_replaces(world: World) -> None:
    world.creating.create({**BODY, **SECRETS})
    given = {"remote_api_key": "sk-2", "system": "New."}
    world.creating.create({**BODY, **given}, keep=["remote_headers"])

    model = world.registry.find("mine")
    assert model
    assert (model.key, model.headers, model.query) == ("sk-2", {"X-Org": "org"}, {})
    assert world.connected[-1].headers == {"X-Org": "org"}


def test_kept_secrets_are_not_sent_to_another_host(world: World) -> None:
    world.creating.create({**BODY, **SECRETS})
    world.connected.clear()
    moved = {**BODY, "remote_host": "https://gpu.test/v1"}
    for host in ("https://gpu.test/v1", "https://remote.test:8/v1", "http://remote.test/v1"):
        with pytest.raises(InvalidRequest, match="only sent to the host") as caught:
            world.creating.create({**BODY, "remote_host": host}, keep=[*SECRETS])
        assert caught.value.param == "remote_api_key"
    assert world.connected == []
    world.creating.create(moved)

    world.creating.create({**moved, "remote_host": "https://remote.test/v1"}, keep=[*SECRETS])
    model = world.registry.find("mine")
    assert model
    assert (model.host, model.key) == ("https://remote.test/v1", None)


def test_verified_model_is_announced_with_its_result(world: World) -> None:
    announced: list[tuple[str, bool]] = []
    world.creating.on_verified = lambda model, check: announced.append(
        (model.version, check.is_healthy)
    )
    stored = world.creating.create(BODY).remote
    world.creating.create({**BODY, "verify": False})

    assert announced == [(stored.version, True)]


def test_quirks_are_added_to_those_of_a_model(world: World) -> None:
    world.creating.create({**BODY, **SECRETS, "quirks": {"drop": ["seed"], "learn": False}})
    changed = world.creating.add_quirks("mine", {"drop": ["user"], "stream_options": False})

    assert changed.quirks == {"drop": ["user"], "learn": False, "stream_options": False}
    model = world.registry.find("mine")
    assert model
    assert (model.key, model.quirks) == ("sk-1", changed.quirks)
    assert world.connect(model.upstream).profile.drop == frozenset({"user"})
    with pytest.raises(NotFound):
        world.creating.add_quirks("gone", {})


def test_only_registered_models_are_deleted(world: World) -> None:
    world.creating.create(BODY)

    assert world.creating.delete("mine").model == "m"
    with pytest.raises(Unsupported, match="environment"):
        world.creating.delete("fast")
    with pytest.raises(NotFound):
        world.creating.delete("mine")


def test_registered_model_can_be_probed_again(world: World) -> None:
    remote = world.creating.create(BODY).remote
    assert world.creating.probe_registered(remote).is_healthy

    world.answer = refusing(401)
    assert world.creating.probe_registered(remote).fault == "key"
