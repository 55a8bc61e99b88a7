"""What becomes of each image and file in a request, by the profile of the upstream it goes to.

It happens to the client's own request, before translation: an error can name the path that the
client knows, and whatever a translation lacks (a file's URL has no place in Chat) is settled by
then.  A request without images and files is only looked through.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from forwarder.core import data_urls
from forwarder.core.data_urls import Blob
from forwarder.core.errors import InvalidRequest, NotFetched, Unsupported
from forwarder.core.pacing import iter_paced
from forwarder.core.types import Call, Json, Stream
from forwarder.core.validate import STR, missing, optional
from forwarder.middleware.media.locations import Place, places, replaced
from forwarder.providers import Profile

Fetch = Callable[[Mapping[str, str]], Mapping[str, Blob]]
"""URL -> what is there; it is given each URL with the path in the request that names it."""

Upload = Callable[[Blob, str], str]
"""Brings a file to the upstream, or finds it there; gives its id.  The path says where it stood."""

Download = Callable[[str, str], Blob]
"""The file of an id, from the upstream that has files.  The path says where the id stood."""


class Hands(NamedTuple):
    """What reaches outside for media; without a ``fetch`` nothing is fetched.

    ``knows_ids`` says that the upstream which is asked is the one that has the files.
    """

    fetch: Fetch | None
    upload: Upload
    download: Download
    knows_ids: bool


_ID = re.compile(r"\w[\w.:-]{0,255}", re.ASCII)
_AT_ONCE = 500
"""Images and files that are read before other requests have their turn."""

_FILE_FIELDS = ("file_data", "file_url", "file_id", "filename")


def with_media(call: Call, client: str, over: str, profile: Profile, hands: Hands) -> Call:
    """Wrap a call of the ``client`` protocol so that the upstream gets only media that it takes.

    ``over`` is the protocol that the upstream speaks.
    The call raises InvalidRequest or Unsupported, naming the path, before it goes anywhere.
    """
    rules = _Rules(client, over, profile, hands)

    def call_with_media(request: Json) -> Stream:
        found = list(places(request, client))
        return call(rules.settled(request, found) if found else request)

    return call_with_media


@dataclass(frozen=True)
class _Rules:
    client: str
    over: str
    profile: Profile
    hands: Hands

    def settled(self, request: Json, found: list[Place]) -> Json:
        """The request as its upstream takes it."""
        staying = [place for place in found if not self._is_left_out(place)]
        for place in staying:
            self._demand_taken(place)
        fetched = {**self._fetched(staying), **self._downloaded(staying)}
        changes = [
            (place, self._settled(place, fetched)) for place in iter_paced(staying, _AT_ONCE)
        ]
        return replaced(request, [(place, v) for place, v in changes if v is not place.value])

    def _is_left_out(self, place: Place) -> bool:
        """Images of tools' results that the profile drops further on are nobody's concern."""
        return place.in_result and place.kind == "image" and self.profile.tool_image == "drop"

    def _demand_taken(self, place: Place) -> None:
        taken = {"image": self.profile.image_url, "file": self.profile.file}
        if taken[place.kind] == "none":
            raise _unsupported(place.path, f"the upstream takes no {place.kind}s")

    def _fetched(self, found: list[Place]) -> Mapping[str, Blob]:
        wanted = {place.url: place.url_path for place in found if self._is_to_fetch(place)}
        if not wanted:
            return {}
        if self.hands.fetch is None:
            path = next(iter(wanted.values()))
            raise _unsupported(path, "the upstream takes no URL here; send the data itself")
        return self.hands.fetch(wanted)

    def _is_to_fetch(self, place: Place) -> bool:
        """Only the Responses API has files by URL; who fetches images fetches them too."""
        takes_urls = self.profile.image_url == "url"
        if place.kind == "file":
            takes_urls = takes_urls and self.over == "responses"
        return bool(place.url) and not data_urls.is_data_url(place.url) and not takes_urls

    def _settled(self, place: Place, fetched: Mapping[str, Blob]) -> Json:
        blob = fetched.get(place.url or str(place.value.get("file_id")))
        return self._image(place, blob) if place.kind == "image" else self._file(place, blob)

    def _is_to_download(self, place: Place) -> bool:
        """What has a place in the Responses API alone, or is nothing to this upstream."""
        if place.url or "file_data" in place.value or "file_id" not in place.value:
            return False
        translated = self.client == "responses" and self.over == "chat"
        return translated and not (place.kind == "file" and self.hands.knows_ids)

    def _downloaded(self, found: list[Place]) -> Mapping[str, Blob]:
        """Id -> what it is of, each once; raises NotFetched about all that are not there."""
        wanted = {_id_of(place): place for place in found if self._is_to_download(place)}
        got: dict[str, Blob | None] = {}
        lost: list[NotFetched] = []
        for file_id, place in wanted.items():
            try:
                got[file_id] = self._got(file_id, place)
            except NotFetched as error:
                lost.append(error)
        for first in lost:
            first.names = frozenset().union(*(error.names for error in lost))
            raise first
        return {file_id: blob for file_id, blob in got.items() if blob}

    def _got(self, file_id: str, place: Place) -> Blob | None:
        """A file that cannot be had may be one that the asked upstream itself knows of."""
        try:
            return self.hands.download(file_id, f"{place.path}.file_id")
        except InvalidRequest:
            if place.kind == "image":
                raise
            return None

    def _image(self, place: Place, fetched: Blob | None) -> Json:
        if not fetched and not data_urls.is_data_url(place.url):
            return place.value
        blob = fetched or _decode(place, place.url_key)
        _demand_image(blob, place)
        if data_urls.names_type(place.url, blob.type):
            return place.value
        others = {k: v for k, v in place.value.items() if k != "file_id"}
        return {**others, place.url_key: blob.url}

    def _file(self, place: Place, fetched: Blob | None) -> Json:
        given = place.value.get("file_data")
        if not fetched and not isinstance(given, str):
            return place.value  # an id, or a URL that is handed on
        blob = _named(fetched, place) if fetched else _read(place, "file_data")
        others = {k: v for k, v in place.value.items() if k not in _FILE_FIELDS}
        if self.profile.file == "upload":
            return {**others, "file_id": self.hands.upload(blob, place.path)}
        if given and data_urls.names_type(given, blob.type):
            return place.value
        return {**others, "filename": blob.name, "file_data": blob.url}


def check(place: Place) -> None:
    """Raise InvalidRequest for an image or a file that no upstream could be given."""
    url = optional(place.value, place.url_key, STR, place.url_path)
    file_id = optional(place.value, "file_id", STR, f"{place.path}.file_id")
    file_data = optional(place.value, "file_data", STR, f"{place.path}.file_data")
    if not (url or file_id or (place.kind == "file" and file_data)):
        raise missing(place.url_path)
    if place.kind == "image" and url and data_urls.is_data_url(url):
        _demand_image(_decode(place, place.url_key), place)
    if place.kind == "file" and file_data:
        _read(place, "file_data")


def _demand_image(blob: Blob, place: Place) -> None:
    if not blob.type.startswith("image/"):
        path = place.url_path if place.url else f"{place.path}.file_id"
        raise _invalid(path, f"there is no image, but {blob.type}")


def _id_of(place: Place) -> str:
    """The id that a place has in place of a URL; it stays one step of a path whatever it holds."""
    file_id = place.value["file_id"]
    if not isinstance(file_id, str) or not _ID.fullmatch(file_id):
        raise _invalid(f"{place.path}.file_id", "it is no id of a file")
    return file_id


def _read(place: Place, key: str) -> Blob:
    return _named(_decode(place, key), place)


def _decode(place: Place, key: str) -> Blob:
    name = place.value.get("filename")
    try:
        return data_urls.read(place.value[key], name if isinstance(name, str) else None)
    except ValueError as reason:
        raise _invalid(f"{place.path}.{key}", f"it {reason}") from None


def _named(blob: Blob, place: Place) -> Blob:
    """The blob with some name: its own, the client's, or one that says its type."""
    given = place.value.get("filename")
    name = blob.name or (given if isinstance(given, str) else None)
    return blob._replace(name=name or f"file{mimetypes.guess_extension(blob.type) or ''}")


def _invalid(path: str, reason: str) -> InvalidRequest:
    message = f"Invalid value for '{path}': {reason}."
    return InvalidRequest(message, param=path, code="invalid_value")


def _unsupported(path: str, reason: str) -> Unsupported:
    return Unsupported(f"'{path}': {reason}.", param=path, code="unsupported_value")
