"""Models registered while forwarders run: the documented commands, the key, hostile hosts, clients.

Two servers share one database, one of them with two workers: each call may be any process's.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.helpers.waiting import wait_until
from tests.live.clients import NODE, make_http_options, needs_node_package, needs_python_package
from tests.live.conftest import make_settings
from tests.live.server import FLASK, ROOT, Server, run_forwarder
from tests.live.talk import http, make_body
from tests.live.test_websocket import WebSocketSession

SECRET = "the-first-secret"
WALK = re.compile(r"## Register, use, copy, delete\n.*?```bash\n(.*?)```", re.DOTALL)
PROVIDER = "https://dashscope.aliyuncs.com/compatible-mode/v1"

NextUrl = Callable[[], str]


def make_environment(upstream: ScriptedUpstream, database: str, **overrides: str) -> dict[str, str]:
    defaults = {
        "FORWARDER_DATABASE_URL": database,
        "FORWARDER_SECRET_KEY": SECRET,
        "FORWARDER_REMOTE_ALLOW": "127.0.0.1",
        "FORWARDER_LOG_LEVEL": "DEBUG",
        "FORWARDER_LOG_BODIES": "true",
    }
    return make_settings(upstream, **{**defaults, **overrides})


@pytest.fixture(scope="module")
def remote() -> Iterator[ScriptedUpstream]:
    """The provider of registered models, with a key of its own."""
    with ScriptedUpstream(keys={REMOTE_KEY}) as scripted:
        yield scripted


REMOTE_KEY = "sk-remote-0123456789abcdef"
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
def _forget_remote(remote: ScriptedUpstream) -> None:
    remote.forget()


@pytest.fixture(scope="module")
def servers(
    database: str, upstream: ScriptedUpstream, tmp_path_factory: Any
) -> Iterator[list[Server]]:
    directory: Path = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:
        environment = make_environment(upstream, database)
        started = [{**environment, "WEB_CONCURRENCY": workers} for workers in ("2", "1")]
        yield [stack.enter_context(run_forwarder(each, directory)) for each in started]


@pytest.fixture(scope="module")
def next_url(servers: list[Server]) -> NextUrl:
    """The address of one server after the other."""
    turns = itertools.cycle(servers)
    return lambda: next(turns).url


def call_api(url: str, path: str, body: Any = None, method: str = "POST") -> httpx2.Response:
    return http.request(method, f"{url}/api/{path}", json=body)


def register(url: str, remote: ScriptedUpstream, name: str, **fields: Any) -> httpx2.Response:
    body = {
        "model": name,
        "from": "scripted",
        "remote_host": remote.url,
        "remote_api_key": REMOTE_KEY,
        "stream": False,
        **fields,
    }
    return call_api(url, "create", body)


# -- the walk ---------------------------------------------------------------------------------


def walk(address: str, remote: ScriptedUpstream) -> Iterator[tuple[list[str], str]]:
    """The commands of the documentation, each with its output."""
    match = WALK.search((ROOT / "docs/registry.md").read_text(encoding="utf-8"))
    assert match
    text = match[1].replace("http://127.0.0.1:8000", address)
    text = text.replace(PROVIDER, remote.url).replace("sk-...", REMOTE_KEY)
    text = text.replace("qwen-plus", "qwen-turbo")
    for command in re.findall(r"^curl .*?(?=^curl |\Z)", text, re.DOTALL | re.MULTILINE):
        arguments = shlex.split(command, comments=True)
        done = subprocess.run(
            ["curl", "-sS", "--noproxy", "*", *arguments[1:]],
            capture_output=True,
            check=True,
            timeout=30,
        )
        yield arguments, done.stdout.decode()


def test_documented_commands_work(servers: list[Server], remote: ScriptedUpstream) -> None:
    for _ in range(8):  # a verification, and four requests of the walk
        remote.script(Answer(text="Hello there."))

    steps = {
        next(
            argument for argument in arguments if "/api/" in argument or "/v1/" in argument
        ).partition("0.1")[2]: output
        for arguments, output in walk(servers[0].url, remote)
    }
    by_path = {path.partition("/")[2]: output for path, output in steps.items()}

    created = [json.loads(line) for line in by_path["api/create"].splitlines()]
    assert created[-1] == {"status": "success"}
    assert created[0]["found"]["model_known"] is True
    names = [model["name"] for model in json.loads(by_path["api/tags"])["models"]]
    assert "dashscope-qwen:latest" in names
    assert json.loads(by_path["api/show"])["remote_model"] == "qwen-turbo"
    assert "event: response.completed" in by_path["v1/responses"]
    assert "Hello there." in by_path["v1/responses"]
    chat = json.loads(by_path["v1/chat/completions"])
    assert chat["choices"][0]["message"]["content"] == "Hello there."
    lines = [json.loads(line) for line in by_path["api/chat"].splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == "Hello there."
    assert (lines[-1]["model"], lines[-1]["done"]) == ("dashscope-qwen", True)
    assert json.loads(by_path["api/generate"])["response"] == "Hello there."
    assert (by_path["api/copy"], by_path["api/delete"]) == ("", "")
    assert REMOTE_KEY not in str(by_path)

    bodies = [r.body for r in remote.requests if r.path.endswith("chat/completions")]
    assert [body.get("temperature") for body in bodies] == [None, *[0.5] * 4]
    system_message = {"role": "system", "content": "Answer in one sentence."}
    assert [body["messages"][0] for body in bodies[1:]] == [system_message] * 4
    remaining_models = call_api(servers[1].url, "tags", method="GET").json()["models"]
    remaining_names = [model["name"] for model in remaining_models]
    assert "usual:latest" in remaining_names
    assert "dashscope-qwen:latest" not in remaining_names
    assert call_api(servers[1].url, "delete", {"model": "usual"}, "DELETE").status_code == 200


@pytest.mark.parametrize("kind", ["openai", "openai-responses", "ollama"])
def test_registered_model_serves_the_openai_sdk(
    servers: list[Server], next_url: NextUrl, remote: ScriptedUpstream, kind: str
) -> None:
    assert register(next_url(), remote, "sdk", remote_type=kind).status_code == 200
    for _ in range(2):
        with OpenAI(base_url=f"{next_url()}/v1", api_key="none", max_retries=0) as client:
            assert "sdk" in [model.id for model in client.models.list()]
            text = client.responses.create(model="sdk", input="hi").output_text
            streamed = client.responses.create(model="sdk:latest", input="hi", stream=True)
            assert [*streamed][-1].type == "response.completed"
            messages: Any = [{"role": "user", "content": "hi"}]
            chat = client.chat.completions.create(model="sdk", messages=messages)
            assert chat.choices[0].message.content
            assert text
            chunks = client.chat.completions.create(model="sdk", messages=messages, stream=True)
            assert any(c.choices and c.choices[0].delta.content for c in chunks)
            embedded = client.embeddings.create(model="sdk", input="four")
            assert embedded.data[0].embedding
    assert {r.headers["authorization"] for r in remote.requests} == {f"Bearer {REMOTE_KEY}"}
    call_api(next_url(), "delete", {"model": "sdk"}, "DELETE")


@pytest.mark.parametrize("kind", ["openai", "openai-responses", "ollama"])
def test_registered_model_serves_the_ollama_client(
    servers: list[Server], next_url: NextUrl, remote: ScriptedUpstream, kind: str
) -> None:
    extra_options = {"num_ctx": 4096, "top_k": 3, "repeat_penalty": 1.1, "min_p": 0.1}
    own_settings = {"system": "Be kind.", "parameters": {"temperature": 0.5, **extra_options}}
    assert register(next_url(), remote, "mine", remote_type=kind, **own_settings).status_code == 200
    remote.forget()
    for name, streamed in itertools.product(("mine", "mine:latest"), (False, True)):
        for path, body in (
            ("chat", {"messages": MESSAGES, "options": {"num_ctx": 9}}),
            ("generate", {"prompt": "hi"}),
        ):
            response = call_api(next_url(), path, {"model": name, "stream": streamed, **body})
            assert (
                response.headers.get("x-forwarder-dropped", "options.num_ctx") == "options.num_ctx"
            )
            last_line = json.loads(response.text.splitlines()[-1])
            assert (last_line["model"], last_line["done"], last_line["done_reason"]) == (
                name,
                True,
                "stop",
            )
        for path, body in (("embed", {"input": "four"}), ("embeddings", {"prompt": "four"})):
            assert call_api(next_url(), path, {"model": name, **body}).status_code == 200
    for request in remote.requests:
        if not request.path.endswith("embeddings"):
            assert request.body["temperature"] == 0.5
            assert "Be kind." in json.dumps(request.body)
            assert not request.body.keys() & {*extra_options, "repetition_penalty"}
    assert {r.headers["authorization"] for r in remote.requests} == {f"Bearer {REMOTE_KEY}"}
    assert {r.body["model"] for r in remote.requests} == {"scripted"}

    remote.script(faults.refuse_with_status(404))
    response = call_api(next_url(), "chat", {"model": "mine", "messages": MESSAGES})
    assert (response.status_code, "model 'mine' not found" in response.json()["error"]) == (
        404,
        True,
    )
    call_api(next_url(), "delete", {"model": "mine"}, "DELETE")


def test_all_workers_see_each_step_at_once(
    servers: list[Server], next_url: NextUrl, remote: ScriptedUpstream
) -> None:
    def collect_statuses(model: str) -> set[int]:
        return {
            http.post(
                f"{next_url()}/v1/responses", json=make_body("responses", model=model)
            ).status_code
            for _ in range(8)
        }

    for turn in range(3):
        name = f"step-{turn}"
        call_api(next_url(), "show", {"model": name})
        register(next_url(), remote, name, verify=False)
        assert {
            r.headers["x-forwarder-upstream"]
            for r in [
                http.post(f"{next_url()}/v1/responses", json=make_body("responses", model=name))
                for _ in range(8)
            ]
        } == {f"{name}:latest"}
        # After a new registration with a refused key, no worker uses the old key.
        register(next_url(), remote, name, verify=False, remote_api_key="sk-not-accepted")
        assert collect_statuses(name) == {403}
        assert call_api(next_url(), "delete", {"model": name}, "DELETE").status_code == 200
        assert {call_api(next_url(), "show", {"model": name}).status_code for _ in range(8)} == {
            404
        }


# -- the key ----------------------------------------------------------------------------------


@pytest.mark.parametrize("capture", ["off", "memory", "a directory"])
def test_key_of_a_registered_model_is_in_no_file_or_answer(
    capture: str, upstream: ScriptedUpstream, remote: ScriptedUpstream, tmp_path: Path
) -> None:
    secrets = {"remote_headers": {"X-Auth": SIDE_KEY}, "remote_query": {"token": SIDE_KEY}}
    environment = make_environment(
        upstream,
        f"sqlite:///{tmp_path}/state.db",
        FORWARDER_CAPTURE=str(tmp_path / "exchanges") if capture == "a directory" else capture,
        WEB_CONCURRENCY="2",
    )
    leak = f"the key {REMOTE_KEY} ({SIDE_KEY}) is odd"
    with run_forwarder(environment, tmp_path) as server:
        texts: list[str] = []

        def post(path: str, body: Any) -> int:
            response = http.post(server.url + path, json=body)
            texts.append(f"{response.headers} {response.text}")
            return response.status_code

        creating = {"from": "scripted", "remote_host": remote.url, "remote_api_key": REMOTE_KEY}
        create = {"model": "mine", **creating, **secrets}
        for mistake in ({"no_such_field": 1}, {"from": None}, {"remote_type": "x"}):
            assert post("/api/create", {**create, **mistake}) == 400
        remote.script(faults.refuse_with_status(400, message=leak))
        assert post("/api/create", create) == 400
        assert post("/api/create", create) == 200
        assert post("/api/chat", create) == 200, "a model is loaded by asking nothing"
        assert post("/v1/responses", {**create, "input": "hi"}) in (200, 400)
        for path, parameters in EVERYWHERE:
            assert post(path, {"model": "mine", **parameters}) == 200
            assert post(path, {"model": "mine", "stream": True, **parameters}) in (200, 400)
            remote.script(faults.refuse_with_status(400, message=leak))
            assert post(path, {"model": "mine", **parameters}) in (200, 400)
            remote.forget()
        session = WebSocketSession(server)
        remote.script(Answer(text="over a socket"), faults.refuse_with_status(400, message=leak))
        texts += [str(session.run_turn("hi", model="mine")) for _ in range(2)]
        session.ws.close()
        listings = [http.get(f"{server.url}/forwarder/exchanges?limit=1000") for _ in range(8)]
        records = [
            http.get(f"{server.url}/forwarder/exchanges/{each['id']}").text
            for answer in listings
            for each in answer.json().get("data", ())
        ]
        log = server.log

    assert {answer.status_code for answer in listings} == {404 if capture == "off" else 200}
    assert capture == "off" or [text for text in records if "is odd" in text]
    files = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert remote.url.encode() in files
    for secret in (REMOTE_KEY, SIDE_KEY):
        assert not [text for text in (*texts, *records) if secret in text]
        assert secret not in log
        assert secret.encode() not in files


SIDE_KEY = "side-0123456789abcdefghij"
EVERYWHERE: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", {"messages": MESSAGES}),
    ("/api/generate", {"prompt": "hi"}),
    ("/api/embed", {"input": "four"}),
    ("/api/embeddings", {"prompt": "four"}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/responses", {"input": "hi", "background": True}),
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/embeddings", {"input": "four"}),
]


def test_remote_key_is_in_no_output_and_its_secret_can_be_rotated(
    upstream: ScriptedUpstream, remote: ScriptedUpstream, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path}/state.db"
    environment = make_environment(upstream, database)
    with run_forwarder(environment, tmp_path) as server:
        responses = [
            register(server.url, remote, "mine"),
            register(server.url, remote, "bad", remote_api_key=REMOTE_KEY[:-1]),
            call_api(server.url, "tags", method="GET"),
            call_api(server.url, "ps", method="GET"),
            call_api(server.url, "show", {"model": "mine", "verbose": True}),
            http.get(f"{server.url}/ready?verbose"),
            http.get(f"{server.url}/v1/models?client_version=1"),
            http.get(f"{server.url}/metrics"),
            http.post(f"{server.url}/v1/responses", json=make_body("responses", model="mine")),
            http.post(f"{server.url}/forwarder/translate", json=make_body("chat", model="mine")),
        ]
        remote.script(faults.refuse_with_status(400, message=f"your key {REMOTE_KEY} is odd"))
        responses.append(
            http.post(f"{server.url}/v1/responses", json=make_body("responses", model="mine"))
        )
        _rotate({**environment, "FORWARDER_SECRET_KEY": f"second,{SECRET}"})
        response = http.post(
            f"{server.url}/v1/responses", json=make_body("responses", model="mine")
        )
        assert response.status_code == 200, "a worker that has the key in memory keeps serving"
        log = server.log

    assert [each.status_code for each in responses] == [200, 400, *[200] * 8, 400]
    assert not any(REMOTE_KEY[:-1] in each.text for each in responses)
    assert REMOTE_KEY[:-1] not in log
    files = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert remote.url.encode() in files
    assert REMOTE_KEY[:-1].encode() not in files

    for secret, status in (("second", 200), (SECRET, 403)):
        with run_forwarder({**environment, "FORWARDER_SECRET_KEY": secret}, tmp_path) as server:
            answer = http.post(
                f"{server.url}/v1/responses", json=make_body("responses", model="mine")
            )
            assert answer.status_code == status


def _rotate(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "keys", "rotate"]
    env = {
        "PATH": "/usr/bin:/bin",
        "FORWARDER_DOTENV": "",
        **environment,
        "FORWARDER_LOG_LEVEL": "ERROR",
    }
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=60, check=True)
    assert b"the keys of 1 models" in done.stdout


# -- hosts ------------------------------------------------------------------------------------


def test_hostile_hosts_are_refused_and_not_contacted(
    upstream: ScriptedUpstream, remote: ScriptedUpstream, tmp_path: Path
) -> None:
    environment = make_environment(
        upstream, f"sqlite:///{tmp_path}/s.db", FORWARDER_REMOTE_ALLOW="127.0.0.2"
    )
    with run_forwarder(environment, tmp_path) as server:
        for host in (
            "http://169.254.169.254/latest/meta-data",
            "https://169.254.169.254/v1",
            "https://[::ffff:169.254.169.254]/v1",
            "https://metadata.google.internal/v1",
            "https://localhost/v1",
            "https://2130706433/v1",
            remote.url,
            remote.url.replace("127.0.0.1", "localhost"),
        ):
            response = register(server.url, remote, "bad", remote_host=host, verify=False)
            assert (response.status_code, "remote_host" in response.json()["error"]) == (
                400,
                True,
            ), host
        assert call_api(server.url, "show", {"model": "bad"}).status_code == 404
    assert remote.requests == []


def test_host_removed_from_the_allow_list_is_refused(
    upstream: ScriptedUpstream, remote: ScriptedUpstream, tmp_path: Path
) -> None:
    environment = make_environment(upstream, f"sqlite:///{tmp_path}/s.db")
    with run_forwarder(environment, tmp_path) as server:
        assert register(server.url, remote, "mine").status_code == 200
    remote.forget()

    with run_forwarder({**environment, "FORWARDER_REMOTE_ALLOW": ""}, tmp_path) as server:
        response = http.post(
            f"{server.url}/v1/responses", json=make_body("responses", model="mine")
        )
        assert (response.status_code, response.json()["error"]["code"]) == (
            502,
            "upstream_unreachable",
        )
    assert remote.requests == []


def test_a_redirect_is_not_followed(
    servers: list[Server], upstream: ScriptedUpstream, remote: ScriptedUpstream
) -> None:
    redirect = faults.refuse_with_status(
        307, headers={"location": f"{upstream.url}/chat/completions"}
    )
    remote.script(redirect)
    response = register(servers[0].url, remote, "bad")
    assert (response.status_code, "redirect" in response.json()["error"]) == (400, True)

    register(servers[0].url, remote, "turning", verify=False)
    remote.script(redirect)
    response = http.post(
        f"{servers[0].url}/v1/responses", json=make_body("responses", model="turning")
    )
    assert response.status_code == 502
    assert upstream.requests == []
    call_api(servers[0].url, "delete", {"model": "turning"}, "DELETE")


def test_remote_clients_cannot_write_without_an_admin_key(
    servers: list[Server], remote: ScriptedUpstream
) -> None:
    remote_headers = {"X-Forwarded-For": "8.8.8.8"}
    for method, path, body in (
        ("POST", "create", {"model": "x", "from": "scripted", "remote_host": remote.url}),
        ("POST", "copy", {"source": "x", "destination": "y"}),
        ("DELETE", "delete", {"model": "x"}),
    ):
        response = http.request(
            method, f"{servers[0].url}/api/{path}", json=body, headers=remote_headers
        )
        assert (response.status_code, [*response.json()]) == (403, ["error"])
    assert remote.requests == []


# -- remotes that are not well ----------------------------------------------------------------


def test_unhealthy_remote_is_reported_on_every_route(
    servers: list[Server], remote: ScriptedUpstream
) -> None:
    url = servers[1].url  # with one worker, which reports the health
    down = "http://127.0.0.1:9/v1"
    unknown = faults.refuse_with_status(404)
    remote.script(unknown)
    for change, param in (
        ({}, "from"),
        ({"remote_api_key": "sk-wrong"}, "remote_api_key"),
        ({"remote_host": down}, "remote_host"),
    ):
        response = register(url, remote, "ill", **change)
        assert (response.status_code, param in response.json()["error"]) == (400, True)
        assert call_api(url, "show", {"model": "ill"}).status_code == 404

    for change, status, code in (
        ({}, 404, "model_not_found"),
        ({"remote_api_key": "sk-wrong"}, 403, "upstream_authentication"),
        ({"remote_host": down}, 502, "upstream_unreachable"),
    ):
        assert register(url, remote, "ill", verify=False, **change).status_code == 200
        for client, path in (("responses", "responses"), ("chat", "chat/completions")):
            if not change:
                remote.script(unknown)
            response = http.post(f"{url}/v1/{path}", json=make_body(client, model="ill"))
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        ready = http.get(f"{url}/ready?verbose").json()["models"]["ill:latest"]
        assert ready.get("reachable") is (change.get("remote_host") is None)
        assert ("error" in ready) is bool(change)

    assert register(url, remote, "ill", verify=False, **{"from": "unlisted"}).status_code == 200
    remote.script(unknown)
    ready = http.get(f"{url}/ready?verbose").json()["models"]["ill:latest"]
    assert (ready["reachable"], ready["key_accepted"], ready["model_known"]) == (True, True, False)
    assert "does not exist" in ready["error"]
    call_api(url, "delete", {"model": "ill"}, "DELETE")


def test_health_of_a_remote_is_checked_in_the_background(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    environment = make_environment(
        upstream, f"sqlite:///{tmp_path}/s.db", FORWARDER_HEALTH_INTERVAL="0.2"
    )
    with run_forwarder(environment, tmp_path) as server:
        with ScriptedUpstream(keys={REMOTE_KEY}) as passing:
            assert register(server.url, passing, "mine").status_code == 200
            wait_until(
                lambda: 'upstream_up{upstream="mine:latest"} 1.0' in _read_metrics(server), 20
            )
        wait_until(lambda: 'upstream_up{upstream="mine:latest"} 0.0' in _read_metrics(server), 20)
        assert "'mine:latest' is unhealthy" in server.log
        model = call_api(server.url, "show", {"model": "mine"}).json()
        assert model["health"]["reachable"] is False


def _read_metrics(server: Server) -> str:
    return http.get(f"{server.url}/metrics").text


def test_registry_works_under_a_threaded_server(
    upstream: ScriptedUpstream, remote: ScriptedUpstream, tmp_path: Path
) -> None:
    environment = make_environment(upstream, f"sqlite:///{tmp_path}/s.db")
    with run_forwarder(environment, tmp_path, FLASK) as server:
        assert register(server.url, remote, "mine").status_code == 200
        body = make_body("chat", model="mine", stream=True)
        assert http.post(f"{server.url}/v1/chat/completions", json=body).status_code == 200
        response = register(server.url, remote, "bad", remote_host="https://169.254.169.254/v1")
        assert response.status_code == 400
        assert call_api(server.url, "delete", {"model": "mine"}, "DELETE").status_code == 200


# -- Ollama's own client ----------------------------------------------------------------------


@needs_python_package("ollama")
def test_ollama_s_python_client_manages_models(next_url: NextUrl, remote: ScriptedUpstream) -> None:
    import ollama

    with ExitStack() as stack:

        def client() -> Any:
            opened_client = ollama.Client(host=next_url(), trust_env=False)
            return stack.enter_context(opened_client)

        check_ollama_client(client, next_url, remote, ollama.ResponseError)


def check_ollama_client(
    client: Callable[[], Any],
    next_url: NextUrl,
    remote: ScriptedUpstream,
    failure: type[Exception],
) -> None:
    assert register(next_url(), remote, "base", system="Be kind.").status_code == 200
    assert client().create(model="kind", from_="base", system="x", stream=False).status == "success"
    statuses = [p.status for p in client().create(model="kind:8b", from_="base", stream=True)]
    assert statuses[-1] == "success"
    assert client().copy("base", "other").status == "success"

    names = {model.model: model for model in client().list().models}
    assert {"base:latest", "kind:latest", "kind:8b", "other:latest"} <= names.keys()
    assert names["base:latest"].details.family == "generic"
    assert names["base:latest"].modified_at.year > 2000
    description = client().show("base")
    assert description.capabilities[0] == "completion"
    assert description.modelinfo["general.basename"] == "scripted"
    assert {model.name for model in client().ps().models} >= {"base:latest"}

    for name in ("base", "kind", "kind:8b", "other:latest"):
        assert client().delete(name).status == "success"
    for call, status in (
        (lambda: client().delete("base"), 404),
        (lambda: client().show("base"), 404),
        (lambda: client().copy("base", "x"), 404),
        (lambda: client().pull("base"), 404),
        (lambda: client().create(model="x", from_="base", template="t"), 400),
    ):
        with pytest.raises(failure) as excinfo:
            call()
        error: Any = excinfo.value
        assert (error.status_code, bool(error.error)) == (status, True)


@needs_python_package("ollama")
def test_ollama_s_asynchronous_client_manages_models(
    next_url: NextUrl, remote: ScriptedUpstream
) -> None:
    import ollama

    async def talk() -> None:
        def client() -> Any:
            return ollama.AsyncClient(host=next_url(), **make_http_options())

        created = await client().create(model="kind", from_="base", system="x", stream=False)
        copied = await client().copy("kind", "other")
        names = {model.model for model in (await client().list()).models}
        assert (created.status, copied.status) == ("success", "success")
        assert {"base:latest", "kind:latest", "other:latest"} <= names
        assert (await client().show("other")).modelinfo["general.basename"] == "scripted"
        answer = await client().chat("other", MESSAGES)
        assert answer.message.content
        for name in ("base", "kind", "other"):
            assert (await client().delete(name)).status == "success"
        with pytest.raises(ollama.ResponseError) as excinfo:
            await client().show("kind")
        assert excinfo.value.status_code == 404

    assert register(next_url(), remote, "base").status_code == 200
    asyncio.run(talk())


@needs_node_package("ollama")
def test_ollama_s_javascript_client_manages_models(
    servers: list[Server], remote: ScriptedUpstream
) -> None:
    url = servers[0].url  # it has two workers
    assert register(url, remote, "js").status_code == 200
    done = subprocess.run(
        ["node", "ollama.mjs", "models", url, "js"], cwd=NODE, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)

    assert result["statuses"] == ["success"] * 3
    own_models = {"js:latest", "js-2:latest", "js-3:latest"}
    assert own_models <= {*result["before"]}
    assert own_models & {*result["after"]} == {"js:latest"}
    assert "js:latest" in result["running"]
    assert (result["shown"]["remote_model"], result["gone"]) == ("scripted", 404)
    assert result["version"]
    assert call_api(url, "delete", {"model": "js"}, "DELETE").status_code == 200
