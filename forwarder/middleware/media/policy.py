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
from forwarder.core.errors import InvalidRequest, MediaUnavailable, Unsupported
from forwarder.core.pacing import iter_paced
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import STR, missing_parameter, read_field
from forwarder.middleware.media.locations import MediaLocation, find_media, replace_media
from forwarder.providers import Profile

Fetch = Callable[[Mapping[str, str]], Mapping[str, Blob]]
"""URL -> what is there; it is given each URL with the path in the request that names it."""

Upload = Callable[[Blob, str], str]
"""Brings a file to the upstream, or finds it there; gives its id.  The path says where it stood."""

Download = Callable[[str, str], Blob]
"""The file of an id, from the upstream that has files.  The path says where the id stood."""


class MediaIO(NamedTuple):
    """What reaches outside for media; without a ``fetch`` nothing is fetched.

    ``knows_ids`` says that the upstream which is asked is the one that has the files.
    """

    fetch: Fetch | None
    upload: Upload
    download: Download
    knows_ids: bool


_ID = re.compile(r"\w[\w.:-]{0,255}", re.ASCII)
LOCATIONS_PER_SLICE = 500
"""Images and files that are read before other requests have their turn."""

_FILE_FIELDS = ("file_data", "file_url", "file_id", "filename")


def with_media(call: Handler, client: str, over: str, profile: Profile, hands: MediaIO) -> Handler:
    """Wrap a call of the ``client`` protocol so that the upstream gets only media that it takes.

    ``over`` is the protocol that the upstream speaks.
    The call raises InvalidRequest or Unsupported, naming the path, before it goes anywhere.
    """
    rules = MediaRules(client, over, profile, hands)

    def handle_request(request: Json) -> EventStream:
        found = list(find_media(request, client))
        return call(rules.apply(request, found) if found else request)

    return handle_request


@dataclass(frozen=True)
class MediaRules:
    client: str
    over: str
    profile: Profile
    hands: MediaIO

    def apply(self, request: Json, found: list[MediaLocation]) -> Json:
        """The request as its upstream takes it."""
        staying = [place for place in found if not self._is_dropped_later(place)]
        for place in staying:
            self._require_supported(place)
        fetched = {**self._fetch_urls(staying), **self._download_files(staying)}
        changes = [
            (place, self._resolve(place, fetched))
            for place in iter_paced(staying, LOCATIONS_PER_SLICE)
        ]
        return replace_media(request, [(place, v) for place, v in changes if v is not place.value])

    def _is_dropped_later(self, place: MediaLocation) -> bool:
        """Images of tools' results that the profile drops further on are nobody's concern."""
        return place.in_result and place.kind == "image" and self.profile.tool_image == "drop"

    def _require_supported(self, place: MediaLocation) -> None:
        taken = {"image": self.profile.image_url, "file": self.profile.file}
        if taken[place.kind] == "none":
            raise unsupported_media(place.path, f"the upstream takes no {place.kind}s")

    def _fetch_urls(self, found: list[MediaLocation]) -> Mapping[str, Blob]:
        wanted = {place.url: place.url_path for place in found if self._must_fetch(place)}
        if not wanted:
            return {}
        if self.hands.fetch is None:
            path = next(iter(wanted.values()))
            raise unsupported_media(path, "the upstream takes no URL here; send the data itself")
        return self.hands.fetch(wanted)

    def _must_fetch(self, place: MediaLocation) -> bool:
        """Only the Responses API has files by URL; who fetches images fetches them too."""
        takes_urls = self.profile.image_url == "url"
        if place.kind == "file":
            takes_urls = takes_urls and self.over == "responses"
        return bool(place.url) and not data_urls.is_data_url(place.url) and not takes_urls

    def _resolve(self, place: MediaLocation, fetched: Mapping[str, Blob]) -> Json:
        blob = fetched.get(place.url or str(place.value.get("file_id")))
        return (
            self._build_image(place, blob)
            if place.kind == "image"
            else self._build_file(place, blob)
        )

    def _must_download(self, place: MediaLocation) -> bool:
        """What has a place in the Responses API alone, or is nothing to this upstream."""
        if place.url or "file_data" in place.value or "file_id" not in place.value:
            return False
        translated = self.client == "responses" and self.over == "chat"
        return translated and not (place.kind == "file" and self.hands.knows_ids)

    def _download_files(self, found: list[MediaLocation]) -> Mapping[str, Blob]:
        """Id -> what it is of, each once; raises NotFetched about all that are not there."""
        wanted = {read_file_id(place): place for place in found if self._must_download(place)}
        got: dict[str, Blob | None] = {}
        lost: list[MediaUnavailable] = []
        for file_id, place in wanted.items():
            try:
                got[file_id] = self._download_file(file_id, place)
            except MediaUnavailable as error:
                lost.append(error)
        for first in lost:
            first.names = frozenset().union(*(error.names for error in lost))
            raise first
        return {file_id: blob for file_id, blob in got.items() if blob}

    def _download_file(self, file_id: str, place: MediaLocation) -> Blob | None:
        """A file that cannot be had may be one that the asked upstream itself knows of."""
        try:
            return self.hands.download(file_id, f"{place.path}.file_id")
        except InvalidRequest:
            if place.kind == "image":
                raise
            return None

    def _build_image(self, place: MediaLocation, fetched: Blob | None) -> Json:
        if not fetched and not data_urls.is_data_url(place.url):
            return place.value
        blob = fetched or decode_data(place, place.url_key)
        require_image(blob, place)
        if data_urls.declares_type(place.url, blob.type):
            return place.value
        others = {k: v for k, v in place.value.items() if k != "file_id"}
        return {**others, place.url_key: blob.data_url}

    def _build_file(self, place: MediaLocation, fetched: Blob | None) -> Json:
        given = place.value.get("file_data")
        if not fetched and not isinstance(given, str):
            return place.value  # an id, or a URL that is handed on
        blob = name_file(fetched, place) if fetched else read_data(place, "file_data")
        others = {k: v for k, v in place.value.items() if k not in _FILE_FIELDS}
        if self.profile.file == "upload":
            return {**others, "file_id": self.hands.upload(blob, place.path)}
        if given and data_urls.declares_type(given, blob.type):
            return place.value
        return {**others, "filename": blob.name, "file_data": blob.data_url}


def check_media(place: MediaLocation) -> None:
    """Raise InvalidRequest for an image or a file that no upstream could be given."""
    url = read_field(place.value, place.url_key, STR, place.url_path)
    file_id = read_field(place.value, "file_id", STR, f"{place.path}.file_id")
    file_data = read_field(place.value, "file_data", STR, f"{place.path}.file_data")
    if not (url or file_id or (place.kind == "file" and file_data)):
        raise missing_parameter(place.url_path)
    if place.kind == "image" and url and data_urls.is_data_url(url):
        require_image(decode_data(place, place.url_key), place)
    if place.kind == "file" and file_data:
        read_data(place, "file_data")


def require_image(blob: Blob, place: MediaLocation) -> None:
    if not blob.type.startswith("image/"):
        path = place.url_path if place.url else f"{place.path}.file_id"
        raise invalid_media(path, f"there is no image, but {blob.type}")


def read_file_id(place: MediaLocation) -> str:
    """The id that a place has in place of a URL; it stays one step of a path whatever it holds."""
    file_id = place.value["file_id"]
    if not isinstance(file_id, str) or not _ID.fullmatch(file_id):
        raise invalid_media(f"{place.path}.file_id", "it is no id of a file")
    return file_id


def read_data(place: MediaLocation, key: str) -> Blob:
    return name_file(decode_data(place, key), place)


def decode_data(place: MediaLocation, key: str) -> Blob:
    name = place.value.get("filename")
    try:
        return data_urls.parse_data(place.value[key], name if isinstance(name, str) else None)
    except ValueError as reason:
        raise invalid_media(f"{place.path}.{key}", f"it {reason}") from None


def name_file(blob: Blob, place: MediaLocation) -> Blob:
    """The blob with some name: its own, the client's, or one that says its type."""
    given = place.value.get("filename")
    name = blob.name or (given if isinstance(given, str) else None)
    return blob._replace(name=name or f"file{mimetypes.guess_extension(blob.type) or ''}")


def invalid_media(path: str, reason: str) -> InvalidRequest:
    message = f"Invalid value for '{path}': {reason}."
    return InvalidRequest(message, param=path, code="invalid_value")


def unsupported_media(path: str, reason: str) -> Unsupported:
    return Unsupported(f"'{path}': {reason}.", param=path, code="unsupported_value")
