"""The pages that register, change, check, copy and delete models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.console import upstreams
from forwarder.models.registered_model import RegisteredModel
from forwarder.server.extension import get_extension
from tests.helpers.check_cases import check_each
from tests.models.remotes import Answer, answer_normally, refuse_connection, refusing
from tests.server.conftest import Serve

KEY = "sk-remote-secret"
HTMX = {"HX-Request": "true"}
EDIT = "/console/models/edit/mine:latest"

FORM = {
    "model": "mine",
    "from": "m",
    "remote_host": "http://127.0.0.1:9/v1",
    "remote_type": "openai",
    "verify": "on",
}

FULL_FORM = {
    **FORM,
    "remote_api_key": KEY,
    "remote_headers": "X-Team: blue-secret\r\nX-Other: b\r\n\r\n",
    "remote_query": "api-version=v-secret",
    "provider": "dashscope",
    "quirks": '{"drop": ["seed"]}',
    "parameters.temperature": "0.5",
    "parameters.stop": "END",
    "parameters.num_ctx": "4096",
    "system": "Be brief.\r\nBe kind.",
    "license": "MIT",
    "info.context_length": "8192",
    "info.capabilities": ["completion", "tools"],
}


class Console:
    """An application with its own registry and one remote for all hosts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, **environment: str) -> None:
        self.answer: Answer = answer_normally
        self.requests: list[httpx2.Request] = []
        transport = httpx2.MockTransport(self._answer)
        monkeypatch.setattr(services, "select_transport", lambda *args: transport)
        settings = {
            "CHAT_BASE_URL": "http://up.test/v1",
            "CHAT_MODELS": "fast=quick",
            "FORWARDER_DATABASE_URL": f"sqlite:///{path}/state.db",
            "FORWARDER_REMOTE_ALLOW": "127.0.0.1,127.0.0.2",
            **environment,
        }
        self.app = create_app(Settings.from_env(settings))
        self.client: FlaskClient = self.app.test_client()

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        return self.answer(request)

    def create(self, form: dict[str, Any] = FORM, **change: Any) -> TestResponse:
        return self.client.post("/console/models/new", data={**form, **change})

    def change(self, form: dict[str, Any] = FORM, **change: Any) -> TestResponse:
        return self.client.post(EDIT, data={**form, **change})

    def find(self, name: str = "mine") -> RegisteredModel:
        model = get_extension(self.app).services.registry.find(name)
        assert model is not None
        return model

    def list_names(self) -> list[str]:
        return [model.name for model in get_extension(self.app).services.registry.list_models()]


Make = Callable[..., Console]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    return lambda **environment: Console(monkeypatch, tmp_path, **environment)


@pytest.fixture
def console(make: Make) -> Console:
    return make()


def read_error(page: str, name: str) -> str:
    """Return the error at a field."""
    match = re.search(rf'<p class="field-error" id="{re.escape(name)}-error">(.*?)</p>', page)
    assert match is not None, name
    return unescape(match[1])


def read_field(page: str, name: str) -> str:
    """Return the value of an input or a text area."""
    tag = re.search(rf'<(input|textarea)\b[^>]* id="{re.escape(name)}"[^>]*>([^<]*)', page)
    assert tag is not None, name
    value = re.search(r' value="([^"]*)"', tag[0])
    return unescape(value[1] if value else tag[2] if tag[1] == "textarea" else "")


# -- creating -------------------------------------------------------------------------------------


def test_form_registers_a_model_with_all_fields(console: Console) -> None:
    saved = console.create(FULL_FORM)

    assert saved.status_code == 303
    model = console.find()
    assert (model.model, model.host, model.kind) == ("m", FORM["remote_host"], "openai")
    assert (model.key, model.provider, model.license) == (KEY, "dashscope", "MIT")
    assert model.headers == {"X-Team": "blue-secret", "X-Other": "b"}
    assert model.query == {"api-version": "v-secret"}
    assert model.quirks == {"drop": ["seed"]}
    assert model.parameters == {"temperature": 0.5, "stop": "END", "num_ctx": 4096}
    assert model.system == "Be brief.\nBe kind."
    assert model.context_length == 8192
    assert model.capabilities == ("completion", "tools")
    page = console.client.get(saved.headers["Location"].partition("#")[0]).text
    assert "Saved: <code>mine:latest</code>" in page
    assert '<span class="tag good">reachable</span>' in page
    assert "secret" not in page


def test_model_is_verified_unless_the_form_disables_it(console: Console) -> None:
    console.answer = refuse_connection
    refused = console.create()
    form_without_verify = {name: value for name, value in FORM.items() if name != "verify"}

    assert refused.status_code == 400
    assert "wrong or the host is down" in read_error(refused.text, "remote_host")
    assert console.list_names() == []
    assert console.create(form_without_verify).status_code == 303
    assert console.list_names() == ["mine:latest"]


def test_form_without_a_host_creates_an_alias(console: Console) -> None:
    saved = console.create({"model": "quick-one", "from": "fast", "remote_type": "openai"})

    assert saved.status_code == 303
    assert (console.find("quick-one").host, console.find("quick-one").model) == ("", "fast")
    page = console.client.get("/console/upstreams").text
    assert "another name, no remote of its own" in page
    assert "/console/models/check/" not in page


@check_each(
    ("change", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": "no spaces"}, "model"),
        ({"model": "chat/m"}, "model"),
        ({"from": ""}, "from"),
        ({"remote_host": "ftp://x"}, "remote_host"),
        ({"remote_host": "http://10.0.0.1/v1"}, "remote_host"),
        ({"remote_host": "", "remote_type": "ollama"}, "remote_type"),
        ({"remote_type": "x"}, "remote_type"),
        ({"remote_api_key": "ä b"}, "remote_api_key"),
        ({"provider": "nobody"}, "provider"),
        ({"remote_headers": "no-colon"}, "remote_headers"),
        ({"remote_headers": "Host: x"}, "remote_headers"),
        ({"remote_query": "no-equals"}, "remote_query"),
        ({"quirks": "{"}, "quirks"),
        ({"quirks": "[]"}, "quirks"),
        ({"quirks": '{"nonsense": 1}'}, "quirks"),
        ({"parameters.temperature": "hot"}, "parameters.temperature"),
        ({"parameters.top_k": "1.5"}, "parameters.top_k"),
        ({"info.context_length": "-5"}, "info.context_length"),
        ({"info.capabilities": "flying"}, "info.capabilities"),
    ],
)
def test_errors_are_shown_at_their_field_and_the_input_is_kept(
    make: Make, change: dict[str, Any], param: str
) -> None:
    console = make()
    refused = console.create({**FULL_FORM, **change})
    page = refused.text

    assert refused.status_code == 400
    assert read_error(page, param)
    other_names = [name for name in FULL_FORM if name not in ("verify", param)]
    assert not any(read_error(page, name) for name in other_names)
    assert f"{param}-error" in page
    assert f'href="#{param}"' in page
    if param != "info.capabilities":
        assert re.search(rf'id="{re.escape(param)}"[^>]* aria-invalid="true" autofocus', page)
    form = {**FULL_FORM, **change}
    for name in ("model", "from", "system", "parameters.temperature", "info.context_length"):
        assert read_field(page, name) == form[name].replace("\r\n", "\n"), name
    assert "secret" not in page
    assert console.list_names() == []


def test_every_input_has_a_label_and_a_place_for_its_error(console: Console) -> None:
    console.create(FULL_FORM)
    for path in ("/console/models/new", EDIT):
        page = console.client.get(path).text
        ids = set(re.findall(r' id="([^"]+)"', page))
        for tag in re.findall(r"<(?:input|select|textarea)\b[^>]*>", page):
            name = re.search(r' id="([^"]+)"', tag)
            if name is None:
                assert 'type="checkbox"' in tag
                continue
            assert f'<label for="{name[1]}">' in page
            described = re.search(r'aria-describedby="([^"]+)"', tag)
            assert described is not None
            assert set(described[1].split()) <= ids
            assert f"{name[1]}-error" in described[1]


def test_registered_name_is_not_overwritten(console: Console) -> None:
    console.create(FULL_FORM)
    refused = console.create()

    assert refused.status_code == 400
    assert "already" in read_error(refused.text, "model")
    assert console.find().key == KEY


def test_htmx_gets_the_form_and_is_redirected_by_a_header(console: Console) -> None:
    refused = console.client.post("/console/models/new", data={**FORM, "from": ""}, headers=HTMX)
    saved = console.client.post("/console/models/new", data=FORM, headers=HTMX)

    assert refused.status_code == 400
    assert refused.text.startswith("<form")
    assert re.search(r'<input type="password"[^>]* hx-preserve="true"', refused.text)
    assert saved.status_code == 204
    assert saved.headers["HX-Redirect"].startswith("/console/upstreams?saved=mine")


def test_hostile_texts_are_escaped_and_shortened(console: Console) -> None:
    hostile = '"><script>alert(1)</script>'
    console.answer = refusing(400, hostile + "x" * 5000)
    refused = console.create({**FULL_FORM, "from": hostile, "system": hostile})
    assert "<script>alert" not in refused.text
    assert read_field(refused.text, "system") == hostile
    console.answer = answer_normally
    assert console.create({**FULL_FORM, "from": hostile}).status_code == 303

    for path in ("/console/upstreams", EDIT, f"/console/upstreams?saved={hostile}"):
        page = console.client.get(path).text
        assert "<script>alert" not in page
    console.answer = refusing(503, hostile + "x" * 5000)
    row = console.client.post("/console/models/check/mine:latest", headers=HTMX).text
    assert "<script>alert" not in row
    assert "x" * 1000 not in row


# -- changing -------------------------------------------------------------------------------------


def test_form_to_change_is_filled_without_secrets(console: Console) -> None:
    console.create(FULL_FORM)
    page = console.client.get(EDIT).text

    for name, value in FULL_FORM.items():
        if name.startswith("remote_") and name not in ("remote_host", "remote_type"):
            assert read_field(page, name) == ""
        elif name in ("model", "from", "remote_host", "system", "license", "info.context_length"):
            assert read_field(page, name) == value.replace("\r\n", "\n")
        elif name.startswith("parameters."):
            assert read_field(page, name) == value
    assert json.loads(read_field(page, "quirks")) == {"drop": ["seed"]}
    assert "<option selected>dashscope</option>" in page
    assert 'value="tools" checked' in page
    assert 'value="vision">' in page
    assert "X-Other, X-Team" in page
    assert "secret" not in page


def test_empty_secrets_keep_the_stored_ones(console: Console) -> None:
    console.create(FULL_FORM)
    console.requests.clear()
    saved = console.change(**{"from": "other", "remote_headers": " \r\n"})

    model = console.find()
    assert saved.status_code == 303
    assert (model.model, model.key) == ("other", KEY)
    assert model.headers == {"X-Team": "blue-secret", "X-Other": "b"}
    assert model.query == {"api-version": "v-secret"}
    assert model.system is None
    assert console.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_entered_secrets_replace_and_marked_ones_are_removed(console: Console) -> None:
    console.create(FULL_FORM)
    console.change(remote_api_key="sk-new", remove_remote_headers="on", remove_remote_query="on")

    model = console.find()
    assert (model.key, model.headers, model.query) == ("sk-new", {}, {})


def test_stored_secrets_are_not_sent_to_another_host(console: Console) -> None:
    console.create(FULL_FORM)
    console.requests.clear()
    refused = console.change(remote_host="http://127.0.0.2:9/v1")
    response = console.change(remote_host="http://127.0.0.1:9/v2")

    assert refused.status_code == 400
    assert "the host for which it was entered" in read_error(refused.text, "remote_api_key")
    assert {request.url.host for request in console.requests} == {"127.0.0.1"}
    assert response.status_code == 303
    secrets = {"remote_api_key": "k", "remote_headers": "A: b", "remote_query": "a=b"}
    assert console.change(remote_host="http://127.0.0.2:9/v1", **secrets).status_code == 303


def test_name_of_a_changed_model_stays(console: Console) -> None:
    console.create()
    console.change(model="other", system="Be kind.")

    assert console.list_names() == ["mine:latest"]
    assert console.find().system == "Be kind."


def test_failed_change_keeps_the_old_model(console: Console) -> None:
    console.create(FULL_FORM)
    console.answer = refusing(401)
    refused = console.change(remote_api_key="sk-wrong", system="New.")

    assert refused.status_code == 400
    assert "does not accept" in read_error(refused.text, "remote_api_key")
    assert "sk-wrong" not in refused.text
    assert (console.find().key, console.find().system) == (KEY, "Be brief.\nBe kind.")


def test_locked_model_can_be_changed_only_with_a_new_key(make: Make) -> None:
    make(FORWARDER_SECRET_KEY="first-secret-of-enough-characters").create(FULL_FORM)
    console = make(FORWARDER_SECRET_KEY="other-secret-of-enough-characters")

    assert "cannot be decrypted" in console.client.get("/console/upstreams").text
    assert "cannot decrypt the stored key" in console.client.get(EDIT).text
    assert console.client.post("/console/models/check/mine:latest").status_code == 403
    refused = console.change()
    assert "cannot decrypt" in read_error(refused.text, "remote_api_key")
    fields = {"remote_api_key": "k", "remove_remote_headers": "on", "remove_remote_query": "on"}
    assert console.change(**fields).status_code == 303
    assert not console.find().locked


# -- checking, copying and deleting ---------------------------------------------------------------


def test_check_calls_the_remote_and_returns_the_row(console: Console) -> None:
    console.create(FULL_FORM)
    console.answer = refusing(401, "no such key")
    console.requests.clear()
    row = console.client.post("/console/models/check/mine:latest", headers=HTMX)
    plain = console.client.post("/console/models/check/mine:latest")

    assert row.text.startswith("<tr>")
    assert '<span class="tag bad">key refused</span>' in row.text
    assert "no such key" in row.text
    assert KEY not in row.text
    assert [request.method for request in console.requests] == ["POST", "POST"]
    assert plain.status_code == 303


def test_model_is_copied_with_its_key(console: Console) -> None:
    console.create(FULL_FORM)
    copied = console.client.post("/console/models/copy/mine:latest", data={"destination": "second"})

    assert copied.status_code == 303
    assert console.list_names() == ["mine:latest", "second:latest"]
    assert (console.find("second").key, console.find("second").quirks) == (KEY, {"drop": ["seed"]})


@check_each("name", ["", "no spaces", "chat/m", "mine", '"><script>'])
def test_invalid_alias_is_an_error_at_its_field(make: Make, name: str) -> None:
    console = make()
    if not console.list_names():
        console.create(FULL_FORM)
    refused = console.client.post("/console/models/copy/mine:latest", data={"destination": name})

    assert refused.status_code == 400
    assert read_error(refused.text, "destination")
    assert read_field(refused.text, "destination") == name
    assert "<script>" not in refused.text
    assert console.list_names() == ["mine:latest"]


def test_deleting_is_confirmed(console: Console) -> None:
    console.create(FULL_FORM)
    path = "/console/models/delete/mine:latest"
    question = console.client.get(path).text
    assert "Delete this model?" in question
    assert console.list_names() == ["mine:latest"]

    deleted = console.client.post(path)
    assert deleted.status_code == 303
    assert console.list_names() == []
    page = console.client.get(deleted.headers["Location"].partition("#")[0]).text
    assert "The model is deleted." in page
    assert console.client.get(path).status_code == 404


# -- the list -------------------------------------------------------------------------------------


def test_page_of_a_model_has_its_state(console: Console) -> None:
    console.create()
    page = console.client.get(EDIT).text

    assert "1 check since" in page
    assert 'hx-get="/console/upstreams/states/mine:latest"' in page
    assert "1 check since" in console.client.get("/console/upstreams/states/mine:latest").text
    assert "/console/upstreams/probes/mine:latest" in page
    console.create({**FORM, "model": "native", "remote_type": "openai-responses"})
    native = console.client.get("/console/models/edit/native:latest").text
    assert "/console/upstreams/probes/" not in native


def test_list_of_models_has_a_limit(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "MAX_ROWS", 1)
    console.create()
    console.create(model="other")
    page = console.client.get("/console/upstreams").text

    assert "1 more" in page
    assert "other:latest" not in page


def test_upstreams_page_names_the_missing_database(serve: Serve) -> None:
    client = serve(answer_normally, FORWARDER_DATABASE_URL="none")
    page = client.get("/console/upstreams").text
    refused = client.post("/console/models/new", data=FORM)

    assert "no database (FORWARDER_DATABASE_URL)" in page
    assert "/console/models/new" not in page
    assert refused.status_code >= 400
    assert "<script>" not in refused.text


def test_models_need_a_session_and_the_own_origin(make: Make) -> None:
    open_console = make()
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"}
    open_console.create()
    closed = make(FORWARDER_ADMIN_KEYS="adm-one")

    for kind in ("edit", "copy", "check", "delete"):
        path = f"/console/models/{kind}/mine:latest"
        assert closed.client.post(path, data=FORM).status_code == 401, path
        assert open_console.client.post(path, data=FORM, headers=foreign).status_code == 403, path
    assert closed.client.post("/console/models/new", data=FORM).status_code == 401
    assert closed.client.get(EDIT).status_code == 302
    assert open_console.list_names() == ["mine:latest"]
