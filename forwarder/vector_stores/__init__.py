"""Vector stores: files that are split, embedded and searched.

Routes and tools call `service.py`. `ingest.py` processes files in the background, with
`chunking.py`, `full_text_words.py` and `vectors.py`. `search.py` finds passages, and
`attributes.py` filters them by the attributes of their files. The upstream that embeds texts is
given as a function.
"""
