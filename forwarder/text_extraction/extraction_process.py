"""Runs `extract.py` in a separate process, and kills it if it takes too long.

The process reads and writes temporary files, so that no greenlet waits for pipes. It is started by
``posix_spawn`` and awaited by polling, because gevent's `subprocess` forks the whole worker and
works only in the main thread.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from forwarder.core.blocking_work import spawn_process, wait_process
from forwarder.text_extraction import extract

FILE_SECONDS, PAGE_SECONDS = 120.0, 40.0
"""Seconds after which a process for a file or a page is killed. The process also sets its own CPU
limit (`extract.CPU_SECONDS`)."""

POLL_SECONDS = 0.02


class ExtractionError(Exception):
    """A document has no readable text; ``code`` is the error code of the API."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def extract_file(content: Iterable[bytes], filename: str, is_cancelled: Callable[[], bool]) -> str:
    """Return the text of a file. Raises ExtractionError, also if ``is_cancelled`` returns True."""
    return extract_text(extract.FILE, content, filename, FILE_SECONDS, is_cancelled)


class PageText(NamedTuple):
    """The main text of a web page, and the texts and URLs of its links."""

    text: str
    links: list[tuple[str, str]]


def extract_page(content: bytes, url: str) -> PageText:
    """Return the main text and the links of a web page of HTML. Raises ExtractionError."""
    page = json.loads(extract_text(extract.PAGE, [content], url, PAGE_SECONDS, lambda: False))
    return PageText(page["text"], [(text, target) for text, target in page["links"]])


def extract_pdf_page(content: bytes) -> str:
    """Return the text of a PDF that was opened as a web page. Raises ExtractionError."""
    return extract_text(extract.PDF_PAGE, [content], "", PAGE_SECONDS, lambda: False)


def extract_text(
    kind: str,
    content: Iterable[bytes],
    name: str,
    seconds: float,
    is_cancelled: Callable[[], bool],
) -> str:
    """Return the text of a document; ``kind`` and ``name`` are arguments of `extract.py`.

    Raises ExtractionError.
    """
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        for part in content:
            source.write(part)
        source.flush()
        source.seek(0)
        run_extractor([kind, name.replace("\0", "")], source, target, seconds, is_cancelled)
        target.seek(0)
        status, _, length = target.readline().decode().partition(" ")
        result = target.read()
    if not length or len(result) != int(length):
        raise ExtractionError(
            extract.INVALID, "The text could not be extracted within the limits of time and memory."
        )
    text = result.decode()
    if status != extract.OK:
        raise ExtractionError(status, text)
    return text


def run_extractor(
    arguments: list[str],
    source: IO[bytes],
    target: IO[bytes],
    seconds: float,
    is_cancelled: Callable[[], bool],
) -> None:
    """Run the program to its end. It is killed after ``seconds`` or if it is cancelled."""
    program = str(Path(extract.__file__))
    with open(os.devnull, "wb") as null_device:
        pid = spawn_process(
            sys.executable,
            [sys.executable, "-I", program, *arguments],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, source.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, target.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, null_device.fileno(), 2),
            ],
            setpgroup=0,
            setsigmask=(),
        )
    deadline = time.monotonic() + seconds
    try:
        while not try_reap(pid):
            if time.monotonic() > deadline or is_cancelled():
                return
            time.sleep(POLL_SECONDS)
    finally:
        end_process(pid)


def end_process(pid: int) -> None:
    """Kill a process if it still runs, and wait for its end."""
    while not try_reap(pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def try_reap(pid: int) -> bool:
    """Reap a child process if it has ended; return whether it has been reaped."""
    try:
        return wait_process(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:  # it was reaped before, here or by gevent's handler of SIGCHLD
        return True
