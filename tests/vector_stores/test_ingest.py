"""Processing of files in the background: results, failures, and crashed workers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from forwarder.core.errors import UpstreamRefused, UpstreamUnreachable
from forwarder.storage.db import vector_chunks, vector_stores
from forwarder.storage.db.vector_stores import NewStoreFile
from forwarder.vector_stores import ingest
from forwarder.vector_stores.ingest import Ingestor, pack_embeddings
from tests.text_extraction.documents import HTML, make_docx, make_pdf
from tests.vector_stores.conftest import OWNER, Client, Open, embed_texts


def get_file(client: Client, store: str, name: str) -> dict[str, Any]:
    return client.stores.get_file(OWNER, store, name)


def test_files_of_all_types_are_processed(client: Client) -> None:
    names = [
        client.upload(make_pdf("Hello PDF"), "a.pdf"),
        client.upload(make_docx("Hello Word"), "a.docx"),
        client.upload(HTML, "a.html"),
        client.upload("print('Hello')", "a.py"),
    ]

    store = client.create_store(**{name: {} for name in names})

    texts = [list(client.stores.iterate_texts(OWNER, store, name)) for name in names]
    assert [len(chunks) for chunks in texts] == [1, 1, 1, 1]
    assert texts[0] == ["Hello PDF"]
    counts = client.stores.get_store(OWNER, store)["file_counts"]
    assert (counts["completed"], counts["total"]) == (4, 4)
    sizes = [get_file(client, store, name)["usage_bytes"] for name in names]
    assert sizes[0] == len("Hello PDF") + 16 * 4
    assert client.stores.get_store(OWNER, store)["usage_bytes"] == sum(sizes)


def test_files_that_cannot_be_read_fail_with_the_reason(client: Client) -> None:
    broken_pdf = client.upload(b"%PDF-1.7\nbroken", "a.pdf")
    image = client.upload(b"\x89PNG\0", "a.png")
    text_file = client.upload("hello")

    store = client.create_store(**{broken_pdf: {}, image: {}, text_file: {}})

    files = [get_file(client, store, name) for name in (broken_pdf, image, text_file)]
    assert [file["status"] for file in files] == ["failed", "failed", "completed"]
    assert [file["last_error"] and file["last_error"]["code"] for file in files] == [
        "invalid_file",
        "unsupported_file",
        None,
    ]


def test_long_file_is_embedded_in_batches(open_client: Open) -> None:
    client = open_client()
    sizes: list[int] = []

    def embed_and_count(model: str, texts: Sequence[str], payer: str) -> list[list[float]]:
        sizes.append(len(texts))
        return embed_texts(model, texts)

    client.use_embeddings(embed_and_count)
    name = client.upload("A sentence with several words. " * 3000)

    store = client.create_store(**{name: {}})

    assert get_file(client, store, name)["status"] == "completed"
    assert len(sizes) > 1
    assert max(sizes) == ingest.BATCH_SIZE
    assert len(list(client.stores.iterate_texts(OWNER, store, name))) == sum(sizes)


class FailingEmbeddings:
    """An embedding model that fails a number of times."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, model: str, texts: Sequence[str], payer: str) -> list[list[float]]:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return embed_texts(model, texts)


def process_file(client: Client, failing: FailingEmbeddings) -> dict[str, Any]:
    client.use_embeddings(failing)
    name = client.upload("hello")
    return get_file(client, client.create_store(**{name: {}}), name)


def test_busy_upstream_is_retried(open_client: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "RETRY_SECONDS", 0.01)
    failing = FailingEmbeddings(
        UpstreamRefused(429, {"message": "slow down"}), UpstreamUnreachable("away")
    )

    assert process_file(open_client(), failing)["status"] == "completed"
    assert failing.calls == 3


def test_upstream_refusal_is_the_reason_of_failure(open_client: Open) -> None:
    failing = FailingEmbeddings(UpstreamRefused(400, {"message": "no such model"}))

    file = process_file(open_client(), failing)

    assert file["last_error"]["code"] == "server_error"
    assert "no such model" in file["last_error"]["message"]
    assert failing.calls == 1


def test_unexpected_error_hides_its_details(
    open_client: Open, caplog: pytest.LogCaptureFixture
) -> None:
    file = process_file(open_client(), FailingEmbeddings(ValueError("secret detail")))

    assert file["last_error"] == {
        "code": "server_error",
        "message": "An internal error occurred.",
    }
    assert "ingestion_failed" in [getattr(record, "event", None) for record in caplog.records]


def test_file_fails_above_the_storage_limit_of_the_owner(open_client: Open) -> None:
    client = open_client(max_owner=3000)
    name = client.upload("word " * 400)

    file = get_file(client, client.create_store(**{name: {}}), name)

    assert (file["status"], file["usage_bytes"]) == ("failed", 0)
    assert "3000 bytes" in file["last_error"]["message"]


def claim_file(client: Client, worker: str) -> vector_stores.PendingFile:
    claimed = client.database.write(partial(vector_stores.claim_file, worker=worker))
    assert claimed is not None
    return claimed


def create_waiting_store(client: Client, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return a store and a file that no worker processes."""
    monkeypatch.setattr(Ingestor, "wake", lambda self: None)
    name = client.upload("hello")
    store = client.stores.create_store(
        OWNER, "s", None, {}, None, [NewStoreFile(name, {}, 800, 400)]
    )
    return store["id"], name


def end_leases(client: Client) -> None:
    client.database.write(lambda c: c.exec_driver_sql("UPDATE vector_store_files SET lease = 1"))


def test_file_of_a_dead_worker_is_taken_over(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name = create_waiting_store(client, monkeypatch)
    claimed = claim_file(client, "dead")
    chunk = vector_chunks.NewChunk("half", ("half",), None, None)
    add = partial(vector_chunks.add_chunks, claimed=claimed, worker="dead", new_chunks=[chunk])
    assert client.database.write(add)
    ingestor = client.make_ingestor(embed_texts)
    assert not ingestor.process_next_file()

    end_leases(client)

    assert ingestor.process_next_file()
    assert get_file(client, store, name)["status"] == "completed"
    assert list(client.stores.iterate_texts(OWNER, store, name)) == ["hello"]


def test_file_fails_after_too_many_attempts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name = create_waiting_store(client, monkeypatch)
    for number in range(ingest.MAX_ATTEMPTS):
        claim_file(client, f"dead-{number}")
        end_leases(client)

    assert client.make_ingestor(embed_texts).process_next_file()

    file = get_file(client, store, name)
    assert (file["status"], file["last_error"]["code"]) == ("failed", "server_error")


def test_loop_starts_with_waiting_files(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    store, name = create_waiting_store(client, monkeypatch)

    client.stores.start()

    client.wait(store)
    assert get_file(client, store, name)["status"] == "completed"


def test_lease_is_renewed_while_a_file_is_processed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name = create_waiting_store(client, monkeypatch)
    monkeypatch.setattr(ingest, "LEASE_SECONDS", 0.03)
    leases: list[float] = []

    def read_lease() -> float:
        query = "SELECT lease FROM vector_store_files"
        return float(client.database.read(lambda c: c.exec_driver_sql(query).scalar()) or 0)

    def embed_slowly(model: str, texts: Sequence[str], payer: str) -> list[list[float]]:
        end_leases(client)
        deadline = time.monotonic() + 20
        while read_lease() == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        leases.append(read_lease())
        return embed_texts(model, texts)

    assert client.make_ingestor(embed_slowly).process_next_file()

    assert leases[0] > time.time() - 60
    assert get_file(client, store, name)["status"] == "completed"


@pytest.mark.parametrize("removal", ["removed", "deleted"])
def test_processing_stops_if_the_file_is_removed(
    client: Client, monkeypatch: pytest.MonkeyPatch, removal: str
) -> None:
    store, name = create_waiting_store(client, monkeypatch)

    def remove_and_embed(model: str, texts: Sequence[str], payer: str) -> list[list[float]]:
        if removal == "removed":
            client.stores.remove_file(OWNER, store, name)
        else:
            client.files.remove(OWNER, name)
        return embed_texts(model, texts)

    assert client.make_ingestor(remove_and_embed).process_next_file()

    count = client.database.read(
        lambda c: c.exec_driver_sql("SELECT count(*) FROM vector_store_chunks").scalar()
    )
    assert count == 0


def test_embeddings_with_too_many_dimensions_are_refused() -> None:
    assert len(list(pack_embeddings([[1.0] * 8192]))) == 1
    with pytest.raises(ingest.IngestionError, match="8192"):
        list(pack_embeddings([[1.0] * 8193]))
