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

from forwarder.errors import InvalidRequest, Unsupported
from forwarder.media import data
from forwarder.media.data import Blob
from forwarder.media.places import Place, places, replaced
from forwarder.profiles import Profile
from forwarder.translate.call import Call, Json, Stream

Fetch = Callable[[Mapping[str, str]], Mapping[str, Blob]]
"""URL -> what is there; it is given each URL with the path in the request that names it."""

Upload = Callable[[Blob, str], str]
"""Brings a file to the upstream, or finds it there; gives its id.  The path says where it stood."""

Download = Callable[[str, str], Blob]
"""The file that the upstream has under an id.  The path says where the id stood."""


class Hands(NamedTuple):
    """What reaches outside for media; without a ``fetch`` nothing is fetched."""

    fetch: Fetch | None
    upload: Upload
    download: Download


_ID = re.compile(r"\w[\w.:-]{0,255}", re.ASCII)
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
        changes = [(place, self._settled(place, fetched)) for place in staying]
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
        return bool(place.url) and not data.is_data_url(place.url) and not takes_urls

    def _settled(self, place: Place, fetched: Mapping[str, Blob]) -> Json:
        blob = fetched.get(place.url or str(place.value.get("file_id")))
        return self._image(place, blob) if place.kind == "image" else self._file(place, blob)

    def _is_to_download(self, place: Place) -> bool:
        """Chat has no place for an image by id, as the Responses API has."""
        by_id = place.kind == "image" and not place.url and "file_id" in place.value
        return by_id and self.client == "responses" and self.over == "chat"

    def _downloaded(self, found: list[Place]) -> Mapping[str, Blob]:
        """Id -> image, each once."""
        paths = {_id_of(p): f"{p.path}.file_id" for p in found if self._is_to_download(p)}
        blobs = {file_id: self.hands.download(file_id, path) for file_id, path in paths.items()}
        for file_id, blob in blobs.items():
            if not blob.type.startswith("image/"):
                raise _invalid(paths[file_id], f"there is no image, but {blob.type}")
        return blobs

    def _image(self, place: Place, fetched: Blob | None) -> Json:
        if not fetched and not data.is_data_url(place.url):
            return place.value
        blob = fetched or _read(place, place.url_key)
        if not blob.type.startswith("image/"):
            raise _invalid(place.url_path, f"there is no image, but {blob.type}")
        if data.names_type(place.url, blob.type):
            return place.value
        others = {k: v for k, v in place.value.items() if k != "file_id"}
        return {**others, place.url_key: blob.url}

    def _file(self, place: Place, fetched: Blob | None) -> Json:
        given = place.value.get("file_data")
        if not fetched and not isinstance(given, str):
            return place.value  # an id, or a URL that is handed on
        blob = fetched or _read(place, "file_data")
        others = {k: v for k, v in place.value.items() if k not in _FILE_FIELDS}
        if self.profile.file == "upload":
            return {**others, "file_id": self.hands.upload(blob, place.path)}
        if given and data.names_type(given, blob.type):
            return place.value
        return {**others, "filename": blob.name, "file_data": blob.url}


def _id_of(place: Place) -> str:
    """The id that a place has in place of a URL; it stays one step of a path whatever it holds."""
    file_id = place.value["file_id"]
    if not isinstance(file_id, str) or not _ID.fullmatch(file_id):
        raise _invalid(f"{place.path}.file_id", "it is no id of a file")
    return file_id


def _read(place: Place, key: str) -> Blob:
    name = place.value.get("filename")
    try:
        blob = data.read(place.value[key], name if isinstance(name, str) else None)
    except ValueError as reason:
        raise _invalid(f"{place.path}.{key}", f"it {reason}") from None
    return blob._replace(name=blob.name or f"file{mimetypes.guess_extension(blob.type) or ''}")


def _invalid(path: str, reason: str) -> InvalidRequest:
    message = f"Invalid value for '{path}': {reason}."
    return InvalidRequest(message, param=path, code="invalid_value")


def _unsupported(path: str, reason: str) -> Unsupported:
    return Unsupported(f"'{path}': {reason}.", param=path, code="unsupported_value")
