"""The operations of OpenAI's API for vector stores."""

from __future__ import annotations

from forwarder.openapi.openai_operations import make_page_parameters
from forwarder.openapi.operation import (
    JSON,
    STORED,
    UPSTREAM,
    Operation,
    answer_json,
    make_query,
)
from forwarder.openapi.schemas import make_list, make_object, refer
from forwarder.storage.db.vector_stores import STATUSES

_FILE_PAGE = (
    *make_page_parameters("desc", before=True),
    make_query(
        "filter", {"type": "string", "enum": list(STATUSES)}, "Only files with this status."
    ),
)

VECTOR_STORES: dict[str, Operation] = {
    "GET /v1/vector_stores": Operation(
        answers=answer_json(make_list(refer("VectorStore"))),
        errors=STORED,
        parameters=make_page_parameters("desc", before=True),
    ),
    "POST /v1/vector_stores": Operation(
        answers=answer_json("VectorStore"),
        errors=STORED,
        body={JSON: refer("VectorStoreRequest")},
        is_body_required=False,
    ),
    "GET /v1/vector_stores/{store_id}": Operation(
        answers=answer_json("VectorStore"), errors=STORED
    ),
    "POST /v1/vector_stores/{store_id}": Operation(
        answers=answer_json("VectorStore"),
        errors=STORED,
        body={JSON: refer("VectorStoreUpdateRequest")},
    ),
    "DELETE /v1/vector_stores/{store_id}": Operation(
        answers=answer_json("VectorStoreDeleted"), errors=STORED
    ),
    "POST /v1/vector_stores/{store_id}/search": Operation(
        answers=answer_json(
            make_object(
                {
                    "object": {"const": "vector_store.search_results.page"},
                    "search_query": {"type": "array", "items": {"type": "string"}},
                    "data": {"type": "array", "items": refer("VectorStoreSearchResponse")},
                    "has_more": {"type": "boolean"},
                    "next_page": {"type": ["string", "null"]},
                },
                ("object", "search_query", "data", "has_more", "next_page"),
            )
        ),
        errors=(*STORED, *UPSTREAM),
        body={JSON: refer("VectorStoreSearchRequest")},
        is_relayed=True,
        example={"query": "What does the contract say about notice?"},
    ),
    "GET /v1/vector_stores/{store_id}/files": Operation(
        answers=answer_json(make_list(refer("VectorStoreFile"))),
        errors=STORED,
        parameters=_FILE_PAGE,
    ),
    "POST /v1/vector_stores/{store_id}/files": Operation(
        answers=answer_json("VectorStoreFile"),
        errors=STORED,
        body={JSON: refer("VectorStoreFileRequest")},
    ),
    "GET /v1/vector_stores/{store_id}/files/{file_id}": Operation(
        answers=answer_json("VectorStoreFile"), errors=STORED
    ),
    "POST /v1/vector_stores/{store_id}/files/{file_id}": Operation(
        answers=answer_json("VectorStoreFile"),
        errors=STORED,
        body={JSON: refer("VectorStoreFileUpdateRequest")},
    ),
    "DELETE /v1/vector_stores/{store_id}/files/{file_id}": Operation(
        answers=answer_json("VectorStoreFileDeleted"), errors=STORED
    ),
    "GET /v1/vector_stores/{store_id}/files/{file_id}/content": Operation(
        answers=answer_json(
            make_object(
                {
                    "object": {"const": "vector_store.file_content.page"},
                    "data": {"type": "array", "items": refer("FileContentResponse")},
                    "has_more": {"type": "boolean"},
                    "next_page": {"type": ["string", "null"]},
                },
                ("object", "data", "has_more", "next_page"),
            )
        ),
        errors=STORED,
    ),
    "POST /v1/vector_stores/{store_id}/file_batches": Operation(
        answers=answer_json("VectorStoreFileBatch"),
        errors=STORED,
        body={JSON: refer("VectorStoreFileBatchRequest")},
    ),
    "GET /v1/vector_stores/{store_id}/file_batches/{batch_id}": Operation(
        answers=answer_json("VectorStoreFileBatch"), errors=STORED
    ),
    "POST /v1/vector_stores/{store_id}/file_batches/{batch_id}/cancel": Operation(
        answers=answer_json("VectorStoreFileBatch"), errors=STORED
    ),
    "GET /v1/vector_stores/{store_id}/file_batches/{batch_id}/files": Operation(
        answers=answer_json(make_list(refer("VectorStoreFile"))),
        errors=STORED,
        parameters=_FILE_PAGE,
    ),
}
