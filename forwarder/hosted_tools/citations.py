"""``url_citation`` and ``file_citation`` annotations for the sources that the model cites.

Instructions ask the model to cite pages by Markdown links, and files by their id. A link or a bare
URL of a known source, and the id of a known file, become annotations; the text itself stays as the
model wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from forwarder.core.types import Json

MAX_CITATIONS = 200
"""Maximum number of annotations of one text."""

MAX_URLS = 2_000
"""Maximum number of URLs of one text that are compared with the sources."""

MAX_LINK_TEXT = 300
"""Maximum number of characters of the text of a Markdown link."""

_URL = re.compile(r"https?://[^\s<>\[\]\"'`|]{1,4096}")
_FILE_ID = re.compile(r"\bfile-[A-Za-z0-9_-]{1,128}")
_TRAILING = ".,;:!?*_"
"""Characters at the end of a URL that belong to the sentence around it."""


def find_citations(text: str, sources: Mapping[str, str]) -> list[Json]:
    """Return the annotations of a text; ``sources`` maps URLs and ids of files to titles.

    The indexes count characters; ``end_index`` is exclusive.
    """
    titles = {normalize_url(url): (url, title) for url, title in sources.items()}
    citations: list[Json] = []
    for match in islice(_URL.finditer(text), MAX_URLS):
        url = cut_at_closing_parenthesis(match[0])
        begin, end = match.start(), match.start() + len(url)
        link = find_link_start(text, begin) if text[end : end + 1] == ")" else None
        if link is not None:
            begin, end = link, end + 1
        else:
            url = url.rstrip(_TRAILING)
            end = begin + len(url)
        source = titles.get(normalize_url(url))
        if source is not None:
            citations.append(make_citation(begin, end, *source))
            if len(citations) == MAX_CITATIONS:
                break
    for match in islice(_FILE_ID.finditer(text), MAX_CITATIONS - len(citations)):
        file_id = match[0].rstrip("-_")
        if file_id in sources:
            citations.append(make_file_citation(match.start(), file_id, sources[file_id]))
    return citations


def cut_at_closing_parenthesis(url: str) -> str:
    """Cut a URL before a parenthesis that it does not open itself."""
    depth = 0
    for index, sign in enumerate(url):
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            return url[:index]
    return url


def find_link_start(text: str, begin: int) -> int | None:
    """Return the start of the Markdown link with the URL at ``begin``."""
    if text[max(0, begin - 2) : begin] != "](":
        return None
    first = max(0, begin - 3 - MAX_LINK_TEXT)
    start = text.rfind("[", first, begin - 2)
    link_text = text[start + 1 : begin - 2]
    if start < 0 or not link_text or "]" in link_text or "\n" in link_text:
        return None
    return start


def normalize_url(url: str) -> str:
    """Return a form that is equal for URLs which models write differently."""
    bare = re.sub(r"^https?://(www\.)?", "", url.partition("#")[0].strip())
    return re.sub(r"[?&]utm_[^&]*", "", bare).rstrip("/")


def make_citation(begin: int, end: int, url: str, title: str) -> Json:
    return {
        "type": "url_citation",
        "start_index": begin,
        "end_index": end,
        "title": title,
        "url": url,
    }


def make_file_citation(index: int, file_id: str, filename: str) -> Json:
    return {"type": "file_citation", "file_id": file_id, "filename": filename, "index": index}


def annotate_part(part: Any, sources: Mapping[str, str]) -> Any:
    """Return an ``output_text`` part with the citations of its text; others unchanged."""
    if not isinstance(part, dict) or part.get("type") != "output_text" or not sources:
        return part
    citations = find_citations(str(part.get("text") or ""), sources)
    if not citations:
        return part
    return {**part, "annotations": [*(part.get("annotations") or ()), *citations]}


def annotate_item(item: Json, sources: Mapping[str, str]) -> Json:
    """Return a message with the citations of its texts; other items unchanged."""
    content = item.get("content")
    if not sources or item.get("type") != "message" or not isinstance(content, list):
        return item
    return {**item, "content": [annotate_part(part, sources) for part in content]}


def annotate_event(event: Json, sources: Mapping[str, str]) -> list[Json]:
    """Return the event with the citations of its text, after the events that announce these."""
    kind = event.get("type")
    if not sources or kind not in ("response.output_text.done", "response.content_part.done"):
        return [event]
    if kind == "response.content_part.done":
        return [{**event, "part": annotate_part(event.get("part"), sources)}]
    place = {name: event.get(name) for name in ("item_id", "output_index", "content_index")}
    citations = find_citations(str(event.get("text") or ""), sources)
    return [
        *(
            {
                "type": "response.output_text.annotation.added",
                **place,
                "annotation_index": index,
                "annotation": citation,
            }
            for index, citation in enumerate(citations)
        ),
        event,
    ]
