"""Processes files in vector stores: extracts the text, splits it, and embeds the passages.

Each worker process handles one file at a time, in the background. A claimed file has a lease; if
its worker dies, another one claims the file when the lease expires and starts again. The file fails
after `MAX_ATTEMPTS` attempts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from forwarder.core.blocking_work import spawn
from forwarder.core.errors import ForwarderError, StoreUnavailable
from forwarder.core.ids import generate_id
from forwarder.core.paced_iteration import give_way
from forwarder.storage.db.clock import LEASE_SECONDS
from forwarder.storage.db.vector_chunks import NewChunk
from forwarder.storage.db.vector_stores import PendingFile
from forwarder.storage.files import FileStore
from forwarder.storage.repositories.vector_stores import VectorStoreRepository
from forwarder.text_extraction.extraction_process import ExtractionError, extract_file
from forwarder.vector_stores.chunking import ChunkingStrategy, split_text
from forwarder.vector_stores.full_text_words import split_words
from forwarder.vector_stores.vectors import MAX_DIMENSIONS, normalize, pack_bits, pack_vector

log = logging.getLogger("forwarder.vector_stores")

Embed = Callable[[str, Sequence[str], str], Sequence[Sequence[float]]]
"""A model's name, texts, and the account that pays -> their vectors. Raises ForwarderError."""

MAX_ATTEMPTS = 5
"""Maximum number of attempts to process a file; each deploy may interrupt one."""

POLL_SECONDS = 10.0
"""Interval between two checks for waiting files, including files of dead workers."""

BATCH_SIZE = 16
"""Passages that are embedded and stored together."""

RENEWALS_PER_LEASE = 3
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 32.0
"""The first and the longest pause before a batch is embedded again; pauses double each time."""

SERVER_ERROR = "server_error"
INTERRUPTED_ERROR = (SERVER_ERROR, "The server stopped several times while it read the file.")
FAILED_ERROR = (SERVER_ERROR, "An internal error occurred.")


class ClaimLost(Exception):
    """The file was removed, cancelled or claimed by another worker."""


class IngestionError(Exception):
    """The passages of a file cannot be stored; the message is for the client."""


class Ingestor:
    """Processes waiting files in the background, one after the other."""

    def __init__(self, repository: VectorStoreRepository, files: FileStore, embed: Embed) -> None:
        self._repository, self._files, self._embed = repository, files, embed
        self._worker = generate_id("worker")
        self._wake = threading.Event()
        self._start_lock = threading.Lock()
        self._is_started = False

    def start(self) -> None:
        """Start the background loop, unless it runs already."""
        with self._start_lock:
            if not self._is_started:
                self._is_started = True
                spawn(self._run_loop)

    def wake(self) -> None:
        """Process new files soon."""
        self.start()
        self._wake.set()

    def _run_loop(self) -> None:
        while not self._repository.close_event.is_set():
            self._wake.clear()
            try:
                while self.process_next_file():
                    if self._repository.close_event.is_set():
                        return
            except StoreUnavailable:
                pass  # the database logged it; the next round may succeed
            except Exception:
                log.exception("could not process a file", extra={"event": "ingestion_failed"})
            self._wake.wait(POLL_SECONDS)

    def process_next_file(self) -> bool:
        """Process a waiting file. Returns False if no file waits. Raises StoreUnavailable."""
        claimed = self._repository.claim_file(self._worker)
        if claimed is None:
            return False
        claim = FileClaim(self._repository, claimed, self._worker)
        if claimed.attempt > MAX_ATTEMPTS:
            claim.finish(0, INTERRUPTED_ERROR)
            return True
        with claim:
            self._process_file(claim)
        return True

    def _process_file(self, claim: FileClaim) -> None:
        size, error = 0, None
        try:
            size = self._extract_and_store(claim)
        except ClaimLost:
            return
        except ExtractionError as failure:
            error = failure.code, failure.message
        except IngestionError as failure:
            error = SERVER_ERROR, str(failure)
        except StoreUnavailable:
            raise  # the file is processed again after the lease
        except ForwarderError as failure:
            error = SERVER_ERROR, f"The passages could not be embedded: {failure.message[:300]}"
            log.warning(
                "could not embed a file: %s",
                failure.log_detail or failure.code,
                extra={"event": "embedding_failed"},
            )
        except Exception:
            log.exception("could not process a file", extra={"event": "ingestion_failed"})
            error = FAILED_ERROR
        claim.finish(size, error)

    def _extract_and_store(self, claim: FileClaim) -> int:
        """Extract, split, embed and store the passages of a claimed file; return their bytes."""
        claimed = claim.file
        content = self._files.iterate_content(claimed.owner, claimed.file)
        text = extract_file(content, claimed.filename, claim.lost_event.is_set)
        room = self._files.max_owner - self._files.measure_owner(claimed.owner)
        size = 0
        strategy = ChunkingStrategy(claimed.chunk_tokens, claimed.overlap_tokens)
        passages = split_text(text, strategy)
        while batch := list(islice(passages, BATCH_SIZE)):
            if claim.lost_event.is_set():
                raise ClaimLost
            new_chunks = self._make_chunks(claim, batch, claimed.embedding_model)
            size += sum(chunk.size for chunk in new_chunks)
            if size > room:
                raise IngestionError(
                    f"Your files and vector stores would have more than {self._files.max_owner} "
                    "bytes."
                )
            claim.add_chunks(new_chunks)
            give_way()
        return size

    def _embed_with_retries(
        self, claim: FileClaim, model: str, texts: list[str]
    ) -> Sequence[Sequence[float]]:
        """Return the vectors of texts; tries again if the upstream is busy or not available."""
        wait = RETRY_SECONDS
        while True:
            try:
                return self._embed(model, texts, claim.file.payer or "")
            except ForwarderError as error:
                if error.status not in RETRIED_STATUSES or wait > MAX_RETRY_SECONDS:
                    raise
            if claim.lost_event.wait(wait):
                raise ClaimLost
            wait *= 2

    def _make_chunks(self, claim: FileClaim, texts: list[str], model: str | None) -> list[NewChunk]:
        packed: Iterator[tuple[bytes | None, bytes | None]]
        if model is None:
            packed = iter([(None, None)] * len(texts))
        else:
            packed = pack_embeddings(self._embed_with_retries(claim, model, texts))
        return [
            NewChunk(text, tuple(split_words(text)), vector, bits)
            for text, (vector, bits) in zip(texts, packed, strict=True)
        ]


def pack_embeddings(vectors: Sequence[Sequence[float]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield each vector and its bits; let other greenlets run, because each takes a millisecond."""
    for vector in vectors:
        if len(vector) > MAX_DIMENSIONS:
            raise IngestionError(f"The embedding model has more than {MAX_DIMENSIONS} dimensions.")
        unit = normalize(vector)
        yield pack_vector(unit), pack_bits(unit)
        give_way()


class FileClaim:
    """A claimed file. As a context manager it renews the lease in the background.

    ``lost_event`` is set when the file was removed, cancelled or claimed by another worker.
    """

    def __init__(self, repository: VectorStoreRepository, file: PendingFile, worker: str) -> None:
        self.file = file
        self.lost_event = threading.Event()
        self._repository, self._worker = repository, worker
        self._done_event = threading.Event()

    def __enter__(self) -> FileClaim:
        spawn(self._renew_loop)
        return self

    def __exit__(self, *error: object) -> None:
        self._done_event.set()

    def _renew_loop(self) -> None:
        while not self._done_event.wait(LEASE_SECONDS / RENEWALS_PER_LEASE):
            try:
                is_own = self._repository.renew_claim(self.file, self._worker)
                if not is_own and not self._done_event.is_set():
                    self.lost_event.set()
                    return
            except StoreUnavailable:
                continue  # the database may work again before the lease ends

    def add_chunks(self, new_chunks: list[NewChunk]) -> None:
        """Store passages. Raises ClaimLost."""
        if not self._repository.add_chunks(self.file, self._worker, new_chunks):
            raise ClaimLost

    def finish(self, size: int, error: tuple[str, str] | None) -> None:
        """Mark the file as processed, or as failed."""
        self._done_event.set()
        self._repository.finish_file(self.file, self._worker, size, error)
