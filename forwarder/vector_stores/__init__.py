"""Vector stores: files that are split, embedded and searched.

Here are the objects of OpenAI's vector stores API, their processing and their search. Elsewhere are
the contents of files (`storage/files.py`), the rows (`storage/repositories/vector_stores.py`), the
routes (`server/vector_stores.py`), the tool (`hosted_tools/file_search.py`, connected by
`pipeline/file_search.py`) and the extraction of text (`text_extraction`). The upstream that embeds
texts comes in as a function, `Embed` (`pipeline/text_embedder.py`).

Differences from OpenAI:

    tokens of passages    estimated (`protocols/token_estimate.py`), no tokenizer
    ``ranker``            checked, without effect: every search fuses ranks
    ``rewrite_query``     queries stay as they are; the route reports the loss
    ``score``             made of ranks: 1 if a passage is the first in all lists
    embedding model       one setting; without it, stores are searched by words only

**Processing**: `service.py` checks a request and stores a `NewStoreFile` for each file, with the
status ``in_progress``. It wakes the `Ingestor` (`ingest.py`), a loop in every worker. The loop
claims a `PendingFile`: the file that has waited longest, of a random owner. The text of the file is
extracted in a process and split by `chunking.py`. For ``BATCH_SIZE`` passages at a time, the loop
embeds the texts, splits them into words (`full_text_words.py`), and stores `NewChunk`s: text,
words, vector and its bits (`vectors.py`). At the end the file becomes ``completed``, or ``failed``
with an error.

**Search**: routes and tool read a filter (`attributes.py`) and ranking options, and `service.py`
checks the stores. `Searcher.search` (`search.py`) reads the files of the stores that are completed,
available and match the filter, and embeds all queries once per embedding model. For each store and
query there are up to two lists of at most ``MAX_CANDIDATES`` passages:

- by words: the full-text index of the database;
- by vectors: the bits of all passages are compared, then the vectors of the nearest ones.

`fuse_ranks` makes one score of both ranks. A passage keeps its best score of all queries. The texts
of the best ones are read last, as `SearchResult`s.

Rules:

- A claim is a lease of a worker. `FileClaim` renews it in the background; each write names the
  worker and has no effect if the file was removed, cancelled or claimed again (ClaimLost). A claim
  deletes the passages of earlier attempts. A file fails after `MAX_ATTEMPTS`. After an outage of
  the database another worker may claim the file although the first one is alive.
- Only passages of completed files are found, so a search never sees half a file.
- If the database fails during processing, the file waits until its lease ends. An upstream that is
  busy or not available is asked again after growing pauses; other errors fail the file.
- Codes and messages of a failed file are for the client. An unexpected error is logged and hidden
  (`FAILED_ERROR`).
- A store keeps the embedding model with which it was created. Vectors with another number of
  dimensions are left out of a search.
- Texts and queries go through the same `split_words`, for both databases. A change there, or of the
  format in `vectors.py`, does not reach passages that are stored already.
- Loops over many passages call `give_way` every few milliseconds; a worker serves other requests at
  the same time. `MAX_MULTIPLICATIONS` limits the exact comparisons of a query.
- ``payer`` is the account of the client that added the file or searches. Embeddings count as its
  usage, with the upstream's own key: in the background there is no client.
- An owner's files and stores share one limit of bytes (FORWARDER_FILES_MAX).
- Every method of `VectorStoreService` for clients takes the owner, and raises the same error for
  data of others as for unknown ids.

To add

- a filter operator: `OPERATORS` and `read_comparison` in `attributes.py`;
- a method of search: its list and weight in `Searcher.search`, the weight in `RankingOptions` and
  `read_ranking_options`;
- a field of a store or of a file in it: the column (see `storage.db`) and a field at the end of
  `VectorStore` or `StoreFile` in `storage/db/vector_stores.py` (`to_store` and `to_file` decode
  JSON by the place of the column), then `create_store` or `NewStoreFile`, the function that renders
  it, and the route.
"""
