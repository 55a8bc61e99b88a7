"""Files and vector stores over HTTP: OpenAI's client, dying workers, and a neighbour's stream."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.live.conftest import Serve
from tests.live.neighbour import Neighbour
from tests.live.server import Server, list_workers, run_forwarder
from tests.text_extraction.documents import HTML, make_docx, make_pdf

DIMENSIONS = 1536


class Embedder(ThreadingHTTPServer):
    """An upstream with embeddings; while ``hold`` is set, it does not answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), EmbeddingHandler)
        self.hold = threading.Event()
        self.arrived = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class EmbeddingHandler(BaseHTTPRequestHandler):
    """Embeds texts by their words: texts with the same words have the same vectors."""

    protocol_version = "HTTP/1.1"
    server: Embedder

    def do_POST(self) -> None:
        """Answer a request for embeddings."""
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        self.server.arrived.set()
        while self.server.hold.is_set():
            time.sleep(0.05)
        entries = [
            {"object": "embedding", "index": i, "embedding": make_vector(text)}
            for i, text in enumerate(texts)
        ]
        body = json.dumps({"object": "list", "model": "e", "data": entries}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


def make_vector(text: str) -> list[float]:
    """Return a vector that the set of a text's first words determines."""
    words = " ".join(sorted(set(text.lower().split()[:50])))
    source = random.Random(hashlib.sha256(words.encode()).digest())
    return [source.uniform(-1, 1) for _ in range(DIMENSIONS)]


@contextmanager
def running_embedder() -> Iterator[Embedder]:
    with Embedder() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.hold.clear()
        server.shutdown()


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    with running_embedder() as server:
        yield server


def make_settings(embedder: Embedder, **overrides: str) -> dict[str, str]:
    return {
        "FORWARDER_UPSTREAMS": "up",
        "UP_BASE_URL": embedder.url,
        "UP_API_KEY": "sk-up",
        "FORWARDER_EMBEDDING_MODEL": "up/e",
        "FORWARDER_API_KEYS": "sk-one,sk-two",
        **overrides,
    }


def connect(server: Server, key: str = "sk-one") -> OpenAI:
    return OpenAI(
        base_url=server.v1,
        api_key=key,
        max_retries=0,
        timeout=60,
        _strict_response_validation=True,
    )


@pytest.fixture(scope="module")
def forwarder(serve: Serve, embedder: Embedder, database: str) -> Server:
    return serve(make_settings(embedder, FORWARDER_DATABASE_URL=database))


def test_official_client_stores_and_searches_files(forwarder: Server) -> None:
    with connect(forwarder) as client:
        contents = {
            "refunds.pdf": make_pdf("Refunds are paid within thirty days."),
            "hours.docx": make_docx("The shop opens at nine."),
            "page.html": HTML.encode(),
            "code.py": b"def greet():\n    return 'hello'\n",
        }
        files = {
            name: client.files.create(file=(name, data), purpose="assistants")
            for name, data in contents.items()
        }
        assert client.files.content(files["code.py"].id).read() == contents["code.py"]
        store = client.vector_stores.create(name="docs", metadata={"team": "a"})
        batch = client.vector_stores.file_batches.create_and_poll(
            store.id,
            file_ids=[files["refunds.pdf"].id, files["hours.docx"].id],
            attributes={"kind": "office"},
            poll_interval_ms=50,
        )
        assert (batch.status, batch.file_counts.completed) == ("completed", 2)
        for name in ("page.html", "code.py"):
            vector_store_file = client.vector_stores.files.create_and_poll(
                files[name].id,
                vector_store_id=store.id,
                attributes={"kind": "text", "size": len(contents[name])},
                poll_interval_ms=50,
            )
            assert vector_store_file.status == "completed", vector_store_file.last_error

        results = client.vector_stores.search(store.id, query="When are refunds paid?")
        assert results.data[0].filename == "refunds.pdf"
        assert results.data[0].content[0].text == "Refunds are paid within thirty days."
        filtered = client.vector_stores.search(
            store.id,
            query=["hello", "opens", "return"],
            filters={"key": "kind", "type": "eq", "value": "text"},
            ranking_options={"ranker": "auto", "score_threshold": 0.1},
            max_num_results=5,
        )
        assert {each.filename for each in filtered.data} == {"page.html", "code.py"}
        assert all(0.1 <= each.score <= 1 for each in filtered.data)
        pages = client.vector_stores.files.list(store.id, limit=1, filter="completed")
        assert len(list(pages)) == 4  # the client follows the pages
        content = client.vector_stores.files.content(
            files["hours.docx"].id, vector_store_id=store.id
        )
        assert [each.text for each in content.data] == ["The shop opens at nine."]
        updated = client.vector_stores.files.update(
            files["code.py"].id, vector_store_id=store.id, attributes={"kind": "code"}
        )
        assert updated.attributes == {"kind": "code"}
        client.vector_stores.files.delete(files["code.py"].id, vector_store_id=store.id)
        client.files.delete(files["page.html"].id)
        now = client.vector_stores.retrieve(store.id)
        assert (now.status, now.file_counts.total) == ("completed", 2)
        assert now.usage_bytes > 2 * DIMENSIONS * 4
        assert client.vector_stores.update(store.id, name="new").name == "new"
        assert [each.id for each in client.vector_stores.list()] == [store.id]
        assert client.vector_stores.delete(store.id).deleted


def test_uploads_of_the_official_client_are_polled(forwarder: Server) -> None:
    with connect(forwarder) as client:
        store = client.vector_stores.create()
        completed_file = client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=("a.txt", b"hello"), poll_interval_ms=50
        )
        failed_file = client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=("a.pdf", b"%PDF-1.7 broken"), poll_interval_ms=50
        )
        batch = client.vector_stores.file_batches.upload_and_poll(
            store.id,
            files=[("b.txt", b"one"), ("c.png", b"\x89PNG\0")],
            poll_interval_ms=50,
        )
        assert (completed_file.status, failed_file.status) == ("completed", "failed")
        assert failed_file.last_error is not None
        assert failed_file.last_error.code == "invalid_file"
        assert (batch.file_counts.completed, batch.file_counts.failed) == (1, 1)


def test_other_clients_find_nothing(forwarder: Server) -> None:
    with connect(forwarder) as client, connect(forwarder, "sk-two") as stranger:
        file = client.files.create(file=("a.txt", b"hello"), purpose="assistants")
        store = client.vector_stores.create(file_ids=[file.id])

        for call in (
            lambda: stranger.vector_stores.retrieve(store.id),
            lambda: stranger.vector_stores.search(store.id, query="hello"),
            lambda: stranger.vector_stores.files.content(file.id, vector_store_id=store.id),
            lambda: stranger.files.content(file.id),
            lambda: stranger.vector_stores.create(file_ids=[file.id]),
        ):
            with pytest.raises(openai.NotFoundError):
                call()


@pytest.mark.slow
def test_file_survives_the_death_of_its_worker(tmp_path: Path) -> None:
    with (
        running_embedder() as embedder,
        run_forwarder(make_settings(embedder), tmp_path) as server,
        connect(server) as client,
    ):
        embedder.hold.set()
        file = client.files.create(file=("a.txt", b"hello"), purpose="assistants")
        store = client.vector_stores.create(file_ids=[file.id])
        assert embedder.arrived.wait(30)

        for worker in list_workers(server):
            os.kill(worker, signal.SIGKILL)
        embedder.hold.clear()

        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                retrieved = client.vector_stores.retrieve(store.id)
            except openai.APIConnectionError:
                time.sleep(0.2)  # gunicorn starts another worker
                continue
            if retrieved.status == "completed":
                break
            time.sleep(0.2)
        assert (retrieved.status, retrieved.file_counts.completed) == ("completed", 1)


MAX_STALL = 0.05
"""Seconds of the worker's time."""


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.exhaustive
def test_neighbour_streams_on_beside_files_and_searches(
    serve: Serve, embedder: Embedder, neighbour: Neighbour
) -> None:
    settings = {"FORWARDER_UPSTREAMS": "up,neighbour", "FORWARDER_API_KEYS": "k"}
    server = serve({**neighbour.settings, **make_settings(embedder), **settings})
    words = [f"word{n}" for n in range(5000)]
    source = random.Random(1)
    text = " ".join(source.choice(words) for _ in range(250_000)).encode()
    with connect(server, "k") as client, neighbour.watch(server, MAX_STALL):
        file = client.files.create(file=("a.txt", text), purpose="assistants")
        store = client.vector_stores.create(file_ids=[file.id])
        deadline = time.monotonic() + 240
        searches = 0
        while client.vector_stores.retrieve(store.id).status == "in_progress":
            assert time.monotonic() < deadline
            time.sleep(0.5)
        for _ in range(20):
            results = client.vector_stores.search(store.id, query="word7 word4711")
            searches += bool(results.data)
    assert searches == 20
