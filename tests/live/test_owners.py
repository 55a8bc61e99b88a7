"""A database of the version with plain digests of keys as owners, and a change of the secret."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
from openai import OpenAI

from forwarder.context.client_identity import hash_client_key
from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.helpers.waiting import wait_until
from tests.live.conftest import make_settings
from tests.live.server import ROOT, Server, run_forwarder
from tests.live.test_background import wait_until_ended

MINE, ANOTHER = "sk-mine", "sk-another"

OWNED = {
    "responses", "events", "items", "conversations", "conversation_items", "completions", "gone",
}  # fmt: skip

LATER = (
    "vector_store_words", "vector_store_chunks", "vector_store_files", "vector_store_batches",
    "vector_stores", "file_parts", "files", "owner_keys", "usage_hours", "client_keys",
)  # fmt: skip
"""Tables that the older version does not have; those that refer to others come first."""

LATER_COLUMNS = ("request", "attempt")
"""Columns of responses that the older version does not have."""


def client_of(server: Server, key: str = MINE) -> OpenAI:
    return OpenAI(base_url=server.v1, api_key=key, max_retries=0, timeout=60)


def execute(database: str, *statements: str) -> list[Any]:
    """The rows that the last statement finds; foreign keys are not checked."""
    if database.startswith("sqlite"):
        connection: Any = sqlite3.connect(database.removeprefix("sqlite:///"), timeout=20)
    else:
        connection = psycopg.connect(database, options="-c session_replication_role=replica")
    with contextlib.closing(connection), connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def owners_of(database: str, *tables: str) -> set[str]:
    union = " UNION ".join(f"SELECT owner FROM {table}" for table in tables or sorted(OWNED))
    return {owner for (owner,) in execute(database, union)}


def make_older(database: str, names: dict[str, str]) -> None:
    """Make it a database of the older version; ``names`` are keys, each with a response's id."""
    for key, name in names.items():
        [(owner,)] = execute(database, f"SELECT owner FROM responses WHERE id = '{name}'")
        assert owner != hash_client_key(key)
        execute(
            database,
            *(
                f"UPDATE {table} SET owner = '{hash_client_key(key)}' WHERE owner = '{owner}'"
                for table in OWNED
            ),
        )
    statements = [f"DROP TABLE IF EXISTS {table}" for table in LATER]
    statements += [f"ALTER TABLE responses DROP COLUMN {column}" for column in LATER_COLUMNS]
    execute(database, *statements, "UPDATE alembic_version SET version_num = '0006'")
    assert owners_of(database) == set(map(hash_client_key, names))


def test_older_database_is_migrated_and_its_owners_survive_a_new_secret(
    database: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    settings = make_settings(
        upstream,
        FORWARDER_DATABASE_URL=database,
        FORWARDER_SECRET_KEY="old secret",
        WEB_CONCURRENCY="2",
        GUNICORN_GRACEFUL_TIMEOUT="2",
    )
    with run_forwarder(settings, tmp_path) as server, client_of(server) as client:
        first = client.responses.create(model="chat/m", input="one")
        second = client.responses.create(
            model="chat/m", input="two", previous_response_id=first.id, stream=True
        )
        *_, last = second
        conversation = client.conversations.create(items=[{"role": "user", "content": "hello"}])
        items = client.conversations.items.create(
            conversation.id, items=[{"role": "user", "content": "x"}]
        )
        client.conversations.items.delete(items.data[0].id, conversation_id=conversation.id)
        completion = client.chat.completions.create(
            model="chat/m", messages=[{"role": "user", "content": "hi"}], store=True
        )
        with client_of(server, ANOTHER) as other_client:
            other_response = other_client.responses.create(model="chat/m", input="theirs")
        upstream.script(faults.slow_down(Answer(text="late " * 20, pieces=20), delay=0.5))
        work = client.responses.create(model="chat/m", input="hi", background=True)
        wait_until(lambda: client.responses.retrieve(work.id).status == "in_progress")
    make_older(database, {MINE: first.id, ANOTHER: other_response.id})
    for table in OWNED:
        assert hash_client_key(MINE) in owners_of(database, table)

    with run_forwarder(settings, tmp_path) as server, client_of(server) as client:
        with ThreadPoolExecutor(8) as pool:  # of both workers, before anything is moved
            responses = list(
                pool.map(lambda _: client.responses.retrieve(last.response.id), range(8))
            )
        assert {response.id for response in responses} == {last.response.id}
        check_things(client, last.response.id, conversation.id, completion.id, upstream)
        done = wait_until_ended(client, work.id)
        assert (done.status, done.error.code) == ("failed", "server_error"), "it has no request"
        with client_of(server, "sk-guess") as guess, pytest.raises(openai.NotFoundError):
            guess.responses.retrieve(first.id)
    owners = owners_of(database)
    assert hash_client_key(MINE) not in owners
    assert hash_client_key(ANOTHER) in owners, "the owner has sent no request yet"

    both = {**settings, "FORWARDER_SECRET_KEY": "new secret,old secret"}
    rotate(both)
    with run_forwarder({**both, "FORWARDER_SECRET_KEY": "new secret"}, tmp_path) as server:
        with client_of(server) as client:
            check_things(client, last.response.id, conversation.id, completion.id, upstream)
        with client_of(server, ANOTHER) as other_client:
            assert other_client.responses.retrieve(other_response.id).id == other_response.id
        assert "old secret" not in server.log
    assert not {hash_client_key(MINE), hash_client_key(ANOTHER)} & owners_of(database)
    if database.startswith("sqlite"):
        path = Path(database.removeprefix("sqlite:///"))
        files = b"".join(p.read_bytes() for p in path.parent.glob(f"{path.name}*"))
        for key in (MINE, ANOTHER):
            assert hash_client_key(key).encode() not in files


def check_things(
    client: OpenAI, response: str, conversation: str, completion: str, upstream: ScriptedUpstream
) -> None:
    """Check that everything the client stored can be read and continued."""
    client.responses.create(model="chat/m", input="three", previous_response_id=response)
    sent_texts = [
        m["content"] for m in upstream.requests[-1].body["messages"] if m["role"] == "user"
    ]
    assert sent_texts == ["one", "two", "three"]
    assert client.responses.create(model="chat/m", input="four", conversation=conversation).id
    assert [*client.conversations.items.list(conversation)][-1].content[0].text == "hello"
    assert completion in [each.id for each in client.chat.completions.list()]
    events = client.responses.retrieve(response, stream=True)
    assert [event.type for event in events][-1] == "response.completed"


def rotate(settings: dict[str, str]) -> None:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "keys", "rotate"]
    env = {
        "PATH": "/usr/bin:/bin",
        "FORWARDER_DOTENV": "",
        **settings,
        "FORWARDER_LOG_LEVEL": "ERROR",
    }
    subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=60, check=True)
