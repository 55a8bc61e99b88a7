"""Extracts the readable text of files and web pages in a separate process.

`extract.py` is the program with the parsers, `extraction_process.py` runs it. A broken or hostile
document can therefore not stop, slow down or harm the worker. Callers provide the documents and
limit how many are processed at the same time: `vector_stores/ingest.py` (one file per worker) and
`hosted_tools/page_reader.py`.

    function            document          length of the text             time until it is killed
    `extract_file`      uploaded file     MAX_CHARACTERS, else refused   FILE_SECONDS
    `extract_page`      HTML page         cut at MAX_PAGE_CHARACTERS     PAGE_SECONDS
    `extract_pdf_page`  PDF as a page     cut at MAX_PAGE_CHARACTERS     PAGE_SECONDS

The path of a document:

1. `extraction_process.extract_text` writes the content to a temporary file and starts
   ``python -I extract.py KIND NAME`` with it as standard input. Standard output is another
   temporary file.
2. The program limits its own memory, CPU time (``CPU_SECONDS``) and priority, and calls the
   function of the kind (`KINDS`). For a file, `choose_extractor` looks at the content, and at the
   name only if the content is ambiguous. An extractor yields pieces of text, so that too long texts
   end early. For an HTML page, the result is the main text and the links, as JSON.
3. The first line of the output has a status and a number of bytes, the text or the reason follows.
   `extraction_process.extract_text` returns the text or raises ExtractionError with the code and
   the message. If the output is missing or has another length, the process has died or was killed:
   the document then counts as invalid.

Rules:

- ``invalid_file`` and ``unsupported_file`` are codes of the API, and messages are for clients. Of
  an unexpected exception of a parser, the message has only the class.
- `extract.py` imports nothing of the forwarder. It imports parsers inside functions, because the
  worker imports it too, for its constants. `tests/test_imports.py` fails if another module imports
  a parser.
- The process has an empty environment, so it knows no secrets. Its standard error is discarded.
- The process is killed when the time is over or ``is_cancelled`` returns True, and it is always
  reaped.
- The text of a file has no NUL: neither database stores it.

To add a file type:

1. Write an extractor in `extract.py`: a generator from bytes to pieces of text. Raise InvalidFile
   for a broken document.
2. Choose it in `choose_extractor`, by the content if possible.
3. Add its library to `requirements.txt`, and to `OWNERS` in `tests/test_imports.py`.
4. Add a document to `tests/text_extraction/documents.py` and tests, and the type to
   `docs/file-search.md`.

A new kind needs a function in `extraction_process.py` and entries in `KINDS` and `CPU_SECONDS`.
Without the latter the process ends before it writes, and every document is invalid.
"""
