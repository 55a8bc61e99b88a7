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


class RegistrationSetup:
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
        self.registration = ModelRegistration(
            self.registry, Catalog(router, upstreams, 60), guard, self.connect, {"chat"}
        )

    def connect(self, settings: UpstreamSettings) -> Upstream:
        self.connected.append(settings)
        return connect_upstream(lambda request: self.answer(request), settings)

    def reject_creation(self, **change: Any) -> InvalidRequest:
        """Return the error of a rejected request; checks that nothing was stored."""
        with pytest.raises(InvalidRequest) as caught:
            self.registration.create({**BODY, **change})
        assert self.registry.list_models() == []
        return caught.value


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[RegistrationSetup]:
    setup = RegistrationSetup(tmp_path)
    yield setup
    setup.database.close()


def test_verified_model_is_stored_and_reported(setup: RegistrationSetup) -> None:
    created = setup.registration.create({**BODY, "provider": "dashscope"})

    stored = setup.registry.find("mine")
    assert stored is not None
    assert stored.model == "m"
    report = {k: created.report[k] for k in ("provider", "verified", "reachable", "model_known")}
    assert report == {
        "provider": "dashscope",
        "verified": True,
        "reachable": True,
        "model_known": True,
    }


def test_embedding_model_is_verified_by_the_model_list(setup: RegistrationSetup) -> None:
    def answer_list_only(request: httpx2.Request) -> httpx2.Response:
        return (answer_normally if request.url.path.endswith("/models") else refusing(400))(request)

    setup.answer = answer_list_only
    info = {"capabilities": ["embedding"]}
    assert setup.reject_creation(info={"capabilities": ["embedding", "completion"]}).param == "from"

    created = setup.registration.create({**BODY, "info": info})

    assert (created.report["key_accepted"], created.report["model_known"]) == (True, True)
    assert setup.registration.probe_registered(created.remote).is_model_known is True
    setup.answer = refusing(401)
    with pytest.raises(InvalidRequest) as caught:
        setup.registration.create({**BODY, "info": info})
    assert caught.value.param == "remote_api_key"


def test_verification_can_be_disabled(setup: RegistrationSetup) -> None:
    setup.answer = refuse_connection

    created = setup.registration.create({**BODY, "verify": False})

    assert created.report == {"provider": "generic", "verified": False}
    assert setup.registry.find("mine")


@pytest.mark.parametrize(
    ("answer", "param", "message_part"),
    [
        (refuse_connection, "remote_host", "wrong or the host is down"),
        (refusing(307), "remote_host", "redirect"),
        (refusing(401), "remote_api_key", "does not accept"),
        (refusing(404, "no such model: m"), "from", "does not have the model"),
        (refusing(400, "odd"), "from", "rejected a test request"),
    ],
)
def test_failed_verification_names_the_parameter(
    setup: RegistrationSetup, answer: Answer, param: str, message_part: str
) -> None:
    setup.answer = answer

    error = setup.reject_creation(remote_api_key="sk-secret-key")

    assert error.param == param
    assert message_part in error.message
    assert "sk-secret-key" not in error.message


def test_silent_upstream_times_out(
    setup: RegistrationSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def comments() -> Iterator[bytes]:
        for _ in range(500):
            time.sleep(0.01)
            yield b": wait\n\n"

    monkeypatch.setattr(registration, "CHECK_TIMEOUT_SECONDS", 0.05)
    setup.answer = lambda request: httpx2.Response(200, content=comments())

    assert "took too long" in setup.reject_creation().message


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
def test_forbidden_host_is_not_contacted(setup: RegistrationSetup, host: str) -> None:
    assert setup.reject_creation(remote_host=host, verify=False).param == "remote_host"
    assert setup.connected == []


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("https://inner.test/v1", "it has no public address"),
        ("https://no-such-host.invalid/v1", "'no-such-host.invalid' cannot be resolved"),
    ],
)
def test_unresolvable_and_private_hosts_have_different_errors(
    host: str, reason: str, setup: RegistrationSetup
) -> None:
    for verify in (False, True):
        assert reason in setup.reject_creation(remote_host=host, verify=verify).message


@pytest.mark.parametrize("host", ["http://gpu.test/v1", "https://gpu.test/v1", "http://10.1.2.3"])
def test_allowed_private_host_needs_no_tls(setup: RegistrationSetup, host: str) -> None:
    setup.registration.create({**BODY, "remote_host": host})

    assert setup.connected[0].base_url == host


def test_verification_times_out(setup: RegistrationSetup) -> None:
    setup.registration.create(BODY)

    assert setup.connected[0].first_byte_timeout < 30


def test_prefix_of_a_configured_upstream_is_reserved(setup: RegistrationSetup) -> None:
    error = setup.reject_creation(model="chat/mine")

    assert error.param == "model"
    with pytest.raises(InvalidRequest, match="'chat/'"):
        setup.registration.copy("fast", "chat/x")


# -- copies -----------------------------------------------------------------------------------


def test_registered_model_is_copied_with_its_key(setup: RegistrationSetup) -> None:
    setup.registration.create({**BODY, "remote_api_key": "sk-1", "parameters": {"top_p": 0.5}})
    setup.registration.create(
        {"model": "kind", "from": "mine", "system": "Be kind.", "parameters": {"seed": 1}}
    )

    copied = setup.registry.find("kind")
    assert copied
    assert (copied.host, copied.key, copied.system) == (
        "https://remote.test/v1",
        "sk-1",
        "Be kind.",
    )
    assert copied.parameters == {"top_p": 0.5, "seed": 1}


@pytest.mark.parametrize("source", ["fast", "fast:latest", "chat/anything"])
def test_configured_model_is_copied_under_another_name(
    setup: RegistrationSetup, source: str
) -> None:
    setup.registration.copy(source, "other:1")

    copied = setup.registry.find("other:1")
    assert copied
    assert (copied.host, copied.model) == ("", source)


def test_copy_of_an_unknown_model_is_not_found(setup: RegistrationSetup) -> None:
    with pytest.raises(NotFound, match="model 'gone' not found") as caught:
        setup.registration.copy("gone", "other")
    assert caught.value.param == "source"
    with pytest.raises(NotFound) as caught:
        setup.registration.create({"model": "other", "from": "gone"})
    assert caught.value.param == "from"
    with pytest.raises(InvalidRequest):
        setup.registration.copy("fast", "a b")


SECRETS = {
    "remote_api_key": "sk-1",
    "remote_headers": {"X-Org": "org"},
    "remote_query": {"version": "1"},
}


def test_replaced_model_keeps_selected_secrets(setup: RegistrationSetup) -> None:
    setup.registration.create({**BODY, **SECRETS})
    changes = {"remote_api_key": "sk-2", "system": "New."}
    setup.registration.create({**BODY, **changes}, keep=["remote_headers"])

    model = setup.registry.find("mine")
    assert model
    assert (model.key, model.headers, model.query) == ("sk-2", {"X-Org": "org"}, {})
    assert setup.connected[-1].headers == {"X-Org": "org"}


def test_kept_secrets_are_not_sent_to_another_host(setup: RegistrationSetup) -> None:
    setup.registration.create({**BODY, **SECRETS})
    setup.connected.clear()
    body = {**BODY, "remote_host": "https://gpu.test/v1"}
    for host in ("https://gpu.test/v1", "https://remote.test:8/v1", "http://remote.test/v1"):
        with pytest.raises(InvalidRequest, match="only sent to the host") as caught:
            setup.registration.create({**BODY, "remote_host": host}, keep=[*SECRETS])
        assert caught.value.param == "remote_api_key"
    assert setup.connected == []
    setup.registration.create(body)

    setup.registration.create({**body, "remote_host": "https://remote.test/v1"}, keep=[*SECRETS])
    model = setup.registry.find("mine")
    assert model
    assert (model.host, model.key) == ("https://remote.test/v1", None)


def test_callback_gets_the_result_of_a_verification(setup: RegistrationSetup) -> None:
    announced: list[tuple[str, bool]] = []
    setup.registration.on_verified = lambda model, check: announced.append(
        (model.version, check.is_healthy)
    )
    stored = setup.registration.create(BODY).remote
    setup.registration.create({**BODY, "verify": False})

    assert announced == [(stored.version, True)]


def test_quirks_are_added_to_those_of_a_model(setup: RegistrationSetup) -> None:
    setup.registration.create({**BODY, **SECRETS, "quirks": {"drop": ["seed"], "learn": False}})
    changed = setup.registration.add_quirks("mine", {"drop": ["user"], "stream_options": False})

    assert changed.quirks == {"drop": ["user"], "learn": False, "stream_options": False}
    model = setup.registry.find("mine")
    assert model
    assert (model.key, model.quirks) == ("sk-1", changed.quirks)
    assert setup.connect(model.upstream).profile.drop == frozenset({"user"})
    with pytest.raises(NotFound):
        setup.registration.add_quirks("gone", {})


def test_only_registered_models_are_deleted(setup: RegistrationSetup) -> None:
    setup.registration.create(BODY)

    assert setup.registration.delete("mine").model == "m"
    with pytest.raises(Unsupported, match="environment"):
        setup.registration.delete("fast")
    with pytest.raises(NotFound):
        setup.registration.delete("mine")


def test_registered_model_can_be_probed_again(setup: RegistrationSetup) -> None:
    remote = setup.registration.create(BODY).remote
    assert setup.registration.probe_registered(remote).is_healthy

    setup.answer = refusing(401)
    assert setup.registration.probe_registered(remote).fault == "key"
