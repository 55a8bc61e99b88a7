"""Converts each image and file in a request as the upstream's provider profile requires.

The middleware works on the client's request before translation. Error messages can thus name paths
of the client's request, and forms without a translation (Chat has no file URLs) are already
converted. A request without images and files passes unchanged.
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
from forwarder.core.paced_iteration import iter_paced
from forwarder.core.stored_data_limit import StoredDataLimit
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import STR, make_missing_parameter_error, read_field
from forwarder.middleware.media.locations import MediaLocation, find_media, replace_media
from forwarder.protocols.registry import UPSTREAM_PROTOCOLS
from forwarder.providers import Profile

Fetch = Callable[[Mapping[str, str]], Mapping[str, Blob]]
"""Fetches URLs; the argument maps each URL to its path in the request."""

Upload = Callable[[Blob, str], str]
"""Takes a file and its path in the request; uploads it if necessary, and returns its id."""

Download = Callable[[str, str], Blob]
"""Takes a file id and its path in the request; downloads the file from its upstream."""

ReadStored = Callable[[str, str], Blob | None]
"""Takes a file id and its path in the request; returns the forwarder's own file, or None."""


class MediaIO(NamedTuple):
    """The I/O functions of media; ``fetch`` is ``None`` if fetching is not allowed.

    ``knows_ids`` is true if the upstream that serves the request also stores the clients' files.
    ``read_stored`` is ``None`` if the forwarder itself stores no files.
    """

    fetch: Fetch | None
    upload: Upload
    download: Download
    knows_ids: bool
    read_stored: ReadStored | None = None


_ID = re.compile(r"\w[\w.:-]{0,255}", re.ASCII)
LOCATIONS_PER_SLICE = 500
"""Images and files that are processed before other greenlets can run."""

MAX_FILE_IDS = 500
"""Maximum number of different ids in one request that are looked up here."""

_FILE_FIELDS = ("file_data", "file_url", "file_id", "filename")


def with_media(
    handler: Handler,
    client: str,
    over: str,
    profile: Profile,
    media_io: MediaIO,
    make_limit: Callable[[], StoredDataLimit] = StoredDataLimit,
) -> Handler:
    """Wrap a handler of the ``client`` protocol so that the upstream gets only media it accepts.

    ``over`` is the upstream's protocol. ``make_limit`` returns the limit for media that the
    request refers to by URL or id. The handler raises InvalidRequest, TooLarge or Unsupported
    with the path in the request before it calls the upstream.
    """
    rules = MediaRules(client, over, profile, media_io)

    def handle_request(request: Json) -> EventStream:
        locations = list(find_media(request, client))
        if not locations:
            return handler(request)
        return handler(rules.apply(request, locations, make_limit()))

    return handle_request


class LoadedMedia:
    """The media that were loaded for one request, by URL or id; the limit counts each use."""

    def __init__(self, limit: StoredDataLimit) -> None:
        self._limit = limit
        self._blobs: dict[str, Blob] = {}
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._blobs

    def add(self, name: str, blob: Blob, path: str) -> None:
        """Add media that were loaded for ``path``.  Raises TooLarge."""
        self._spend(blob, path)
        self._blobs[name] = blob

    def use(self, name: str, path: str) -> Blob | None:
        """Return the media for one more ``path``, or None if none were loaded.  Raises TooLarge."""
        blob = self._blobs.get(name)
        if blob is None:
            return None
        if name in self._used:
            self._spend(blob, path)
        self._used.add(name)
        return blob

    def _spend(self, blob: Blob, path: str) -> None:
        self._limit.spend_bytes(len(blob.data) * 4 // 3, path)  # Base64


@dataclass(frozen=True)
class MediaRules:
    client: str
    over: str
    profile: Profile
    media_io: MediaIO

    def apply(self, request: Json, locations: list[MediaLocation], limit: StoredDataLimit) -> Json:
        """Return the request in the form that the upstream accepts."""
        relevant = [location for location in locations if not self._is_dropped_later(location)]
        for location in relevant:
            self._require_supported(location)
        loaded = LoadedMedia(limit)
        self._fetch_urls(relevant, loaded)
        self._download_files(relevant, loaded)
        changes = [
            (location, self._resolve(location, loaded))
            for location in iter_paced(relevant, LOCATIONS_PER_SLICE)
        ]
        return replace_media(request, [(at, v) for at, v in changes if v is not at.value])

    def _is_dropped_later(self, location: MediaLocation) -> bool:
        """Return whether the profile drops this image of a tool's result during translation."""
        is_tool_image = location.in_result and location.kind == "image"
        return is_tool_image and self.profile.tool_image == "drop"

    def _require_supported(self, location: MediaLocation) -> None:
        accepted = {"image": self.profile.image_url, "file": self.profile.file}
        if accepted[location.kind] == "none":
            raise unsupported_media(location.path, f"the upstream does not accept {location.kind}s")

    def _fetch_urls(self, locations: list[MediaLocation], loaded: LoadedMedia) -> None:
        wanted = {at.url: at.url_path for at in locations if self._must_fetch(at)}
        if not wanted:
            return
        if self.media_io.fetch is None:
            path = next(iter(wanted.values()))
            raise unsupported_media(
                path, "the upstream does not accept URLs here; send the data instead"
            )
        for url, blob in self.media_io.fetch(wanted).items():
            loaded.add(url, blob, wanted[url])

    def _must_fetch(self, location: MediaLocation) -> bool:
        """Return whether the upstream cannot fetch this URL itself.

        Only the Responses API has file URLs, and upstreams that fetch images also fetch files.
        """
        accepts_urls = self.profile.image_url == "url"
        if location.kind == "file":
            accepts_urls = accepts_urls and UPSTREAM_PROTOCOLS[self.over].has_media_ids
        return bool(location.url) and not data_urls.is_data_url(location.url) and not accepts_urls

    def _resolve(self, location: MediaLocation, loaded: LoadedMedia) -> Json:
        name = location.url or str(location.value.get("file_id"))
        blob = loaded.use(name, location.url_path if location.url else f"{location.path}.file_id")
        if location.kind == "image":
            return self._build_image(location, blob)
        return self._build_file(location, blob)

    def _must_download(self, location: MediaLocation) -> bool:
        """Return whether an id must be replaced by data.

        Chat has no image ids, and file ids are valid only at the upstream with the files.
        """
        if not is_reference(location):
            return False
        if self.client == self.over or UPSTREAM_PROTOCOLS[self.over].has_media_ids:
            return False
        return not (location.kind == "file" and self.media_io.knows_ids)

    def _download_files(self, locations: list[MediaLocation], loaded: LoadedMedia) -> None:
        """Load files by id; raises MediaUnavailable with the ids of all unavailable files."""
        self._read_stored_files(locations, loaded)
        wanted = {read_file_id(at): at for at in locations if self._must_download(at)}
        check_id_count(wanted)
        errors: list[MediaUnavailable] = []
        for file_id, location in wanted.items():
            if file_id in loaded:
                continue
            path = f"{location.path}.file_id"
            try:
                blob = self.media_io.download(file_id, path)
            except InvalidRequest as error:
                if location.kind == "file":
                    continue  # the id is passed on, because the upstream may know it
                if not isinstance(error, MediaUnavailable):
                    raise
                errors.append(error)
            else:
                loaded.add(file_id, blob, path)
        if errors:
            errors[0].names = frozenset().union(*(error.names for error in errors))
            raise errors[0]

    def _read_stored_files(self, locations: list[MediaLocation], loaded: LoadedMedia) -> None:
        """Load the forwarder's own files, because no upstream knows their ids."""
        if self.media_io.read_stored is None:
            return
        wanted = {
            at.value["file_id"]: at
            for at in filter(is_reference, locations)
            if isinstance(at.value["file_id"], str)
        }
        check_id_count(wanted)
        for file_id, location in wanted.items():
            path = f"{location.path}.file_id"
            blob = self.media_io.read_stored(file_id, path)
            if blob is not None:
                loaded.add(file_id, blob, path)

    def _build_image(self, location: MediaLocation, fetched: Blob | None) -> Json:
        if not fetched and not data_urls.is_data_url(location.url):
            return location.value
        blob = fetched or decode_data(location, location.url_key)
        require_image(blob, location)
        if data_urls.declares_type(location.url, blob.type):
            return location.value
        others = {k: v for k, v in location.value.items() if k != "file_id"}
        return {**others, location.url_key: blob.data_url}

    def _build_file(self, location: MediaLocation, fetched: Blob | None) -> Json:
        file_data = location.value.get("file_data")
        if not fetched and not isinstance(file_data, str):
            return location.value  # an id, or a URL that the upstream fetches
        blob = name_file(fetched, location) if fetched else read_data(location, "file_data")
        others = {k: v for k, v in location.value.items() if k not in _FILE_FIELDS}
        if self.profile.file == "upload":
            return {**others, "file_id": self.media_io.upload(blob, location.path)}
        if file_data and data_urls.declares_type(file_data, blob.type):
            return location.value
        return {**others, "filename": blob.name, "file_data": blob.data_url}


def is_reference(location: MediaLocation) -> bool:
    """Return whether an image or file is given only by its id."""
    value = location.value
    return not location.url and "file_data" not in value and "file_id" in value


def check_id_count(wanted: Mapping[str, MediaLocation]) -> None:
    """Raise InvalidRequest if a request has too many ids that are looked up here."""
    if len(wanted) > MAX_FILE_IDS:
        location = list(wanted.values())[MAX_FILE_IDS]
        reason = f"a request may contain at most {MAX_FILE_IDS} file ids"
        raise invalid_media(f"{location.path}.file_id", reason)


def check_media(location: MediaLocation) -> None:
    """Raise InvalidRequest for an image or file that is invalid for every upstream."""
    value, path = location.value, location.path
    url = read_field(value, location.url_key, STR, location.url_path)
    file_id = read_field(value, "file_id", STR, f"{path}.file_id")
    file_data = read_field(value, "file_data", STR, f"{path}.file_data")
    if not (url or file_id or (location.kind == "file" and file_data)):
        raise make_missing_parameter_error(location.url_path)
    if location.kind == "image" and url and data_urls.is_data_url(url):
        require_image(decode_data(location, location.url_key), location)
    if location.kind == "file" and file_data:
        read_data(location, "file_data")


def require_image(blob: Blob, location: MediaLocation) -> None:
    if not blob.type.startswith("image/"):
        path = location.url_path if location.url else f"{location.path}.file_id"
        raise invalid_media(path, f"expected an image, got {blob.type}")


def read_file_id(location: MediaLocation) -> str:
    """Return the file id; raises InvalidRequest unless it is safe as one segment of a URL path."""
    file_id = location.value["file_id"]
    if not isinstance(file_id, str) or not _ID.fullmatch(file_id):
        raise invalid_media(f"{location.path}.file_id", "it is not a valid file id")
    return file_id


def read_data(location: MediaLocation, key: str) -> Blob:
    return name_file(decode_data(location, key), location)


def decode_data(location: MediaLocation, key: str) -> Blob:
    name = location.value.get("filename")
    try:
        return data_urls.parse_data(location.value[key], name if isinstance(name, str) else None)
    except ValueError as reason:
        raise invalid_media(f"{location.path}.{key}", f"it {reason}") from None


def name_file(blob: Blob, location: MediaLocation) -> Blob:
    """Return the blob with a name: its own, the client's, or one with the extension of its type."""
    filename = location.value.get("filename")
    name = blob.name or (filename if isinstance(filename, str) else None)
    return blob._replace(name=name or f"file{mimetypes.guess_extension(blob.type) or ''}")


def invalid_media(path: str, reason: str) -> InvalidRequest:
    message = f"Invalid value for '{path}': {reason}."
    return InvalidRequest(message, param=path, code="invalid_value")


def unsupported_media(path: str, reason: str) -> Unsupported:
    return Unsupported(f"'{path}': {reason}.", param=path, code="unsupported_value")
