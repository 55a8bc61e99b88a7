"""Embeddings for vector stores, which the forwarder itself requests from an upstream."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from forwarder.core.errors import ForwarderError, UpstreamProtocolError
from forwarder.core.types import Json
from forwarder.pipeline.own_upstream_requests import make_internal_context
from forwarder.pipeline.upstream_calls import UpstreamCalls
from forwarder.protocols.registry import EMBEDDINGS
from forwarder.services import Services
from forwarder.storage.repositories.vector_stores import VectorStoreRepository
from forwarder.translation.ollama_embeddings import read_answer, read_vectors
from forwarder.vector_stores.service import VectorStoreService


class TextEmbedder:
    """Embeds texts through upstreams, with the upstreams' own keys."""

    def __init__(self, services: Services, calls: UpstreamCalls) -> None:
        self._services = services
        self._calls = calls

    def embed(self, model: str, texts: Sequence[str], payer: str) -> list[array[float]]:
        """Return the vectors of texts; ``payer`` pays for the tokens. Raises ForwarderError."""
        context = make_internal_context(self._services, EMBEDDINGS.name, payer)
        request: Json = {"model": model, "input": list(texts), "encoding_format": "float"}
        try:
            stream = self._calls.open_embeddings(EMBEDDINGS.name, request, context)
            answer = read_answer(context.convert_errors(stream))
            vectors = [array("d", vector) for vector in read_vectors(answer)]
        except ForwarderError as error:
            context.record_failure(error)
            raise
        except (KeyError, TypeError, AttributeError) as error:
            raise UpstreamProtocolError(
                "The upstream's answer contains no readable embeddings."
            ) from error
        finally:
            context.close()
        if len(vectors) != len(texts):
            raise UpstreamProtocolError("The upstream has not embedded every text.")
        return vectors


def build_vector_stores(services: Services, calls: UpstreamCalls) -> VectorStoreService | None:
    """Return the vector stores of the database, None without one."""
    if services.database is None or services.files is None:
        return None
    return VectorStoreService(
        VectorStoreRepository(services.database),
        services.files,
        services.settings.embedding_model,
        TextEmbedder(services, calls).embed,
    )
