"""Converts images and files in requests to a form that the upstream accepts.

This stage works on the client's Chat or Responses request, before the translation, so that errors
name paths of that request. Not here: the fields of content parts (`translation/content_parts.py`),
the place of images of tool results (`providers/tool_result_media.py`), the routes of ``/v1/files``
(`server/files.py`), and the functions for I/O of one attempt, which `pipeline/media_io.py` builds.

**A request**: `find_media` (`locations.py`) yields a `MediaLocation` for each image and file: its
object, and the keys and indexes that lead to it. Without any, the request passes unchanged.
`MediaRules.apply` (`stage.py`) then checks that the profile accepts images and files, loads the
URLs and the ids that the upstream cannot use, converts each object, and copies only the lists and
objects on the way to changed ones (`replace_media`). Loaded media are `Blob` objects: data, media
type and file name.

The profile's ``image_url`` and ``file`` and the upstream's API decide:

    data in the request   kept if it declares its media type, else rewritten with the detected one;
                          files are uploaded instead if ``file`` is ``upload`` (`uploads.py`)
    URL of an image       kept if ``image_url`` is ``url``, else fetched (`fetch.py`) and inlined
    URL of a file         kept if ``image_url`` is ``url`` and the upstream speaks Responses
                          (``has_media_ids``), else fetched, and inlined or uploaded
    id of a stored file   read from the database and inlined or uploaded, because no upstream knows
                          the id
    other id              kept, except for a Responses client over a Chat upstream: images are
                          downloaded (`downloads.py`) and inlined, files too unless this upstream
                          has the clients' files
    tool result's image   left alone if ``tool_image`` is ``drop``, because it is dropped later

`MediaIO` has the functions: fetch, upload, download, read a stored file. ``fetch`` is None if
fetching is off or clients need no keys; a URL that must be fetched is then refused. The dry run has
functions that return placeholders.

Rules:

- Errors are raised before the upstream is called, with the path in the client's request.
  MediaUnavailable names all URLs or ids that failed, so that `storage/earlier_items.py` can replace
  those of earlier turns by a note, report the loss, and try again. If a file (not an image) cannot
  be downloaded, its id is passed on, because the upstream may know it.
- URLs come from clients. The address guard resolves each host once, also after each redirect, and
  the connection goes to the addresses that it returned; no proxy is used. Reasons in errors reveal
  nothing of the forwarder's network.
- Size and time are limited for all URLs of a request together. Closing the session shuts all its
  sockets down; a name look-up can only be abandoned. So look-ups have their own threads, apart from
  those of upstreams, and a client gets only a share of them (`dns_lookups.py`).
- A `StoredDataLimit` counts loaded media for each use, as Base64, towards the limit of the request
  body and the memory for bodies. The numbers of URLs and of ids are limited too (`MAX_URLS`,
  `MAX_FILE_IDS`).
- A declared media type counts unless it is generic; then the data and the file name decide. Images
  must have an image type, and fetched data that of an image or a document.
- `find_media` skips malformed parts; the translation or the upstream reports them. Loops over
  locations pause, so that other requests run.
- All requests to an upstream or endpoint share an `UploadCache`. It uploads a content once for each
  key: the lock of the entry is held during the upload, which ends if its client disconnects. The
  cache deletes files at the upstream that are unused for FORWARDER_UPLOAD_MAX_AGE or too many; a
  failed deletion is only logged.

`Fetcher` also serves `hosted_tools`. `check_media` serves `storage/items.py`, which stores items
without calling an upstream.

To add a type of content parts, add it to ``_KINDS`` in `locations.py`, and to ``_NESTED`` if its
value is an object of its own. To add a form that a provider needs, add a value to ``image_url`` or
``file`` in `providers/profile.py`, its words to `tools/docgen/providers.py`, and the rule to
`MediaRules`. To add a source of data, add a field to `MediaIO` and build it in both functions of
`pipeline/media_io.py`; the placeholder of the dry run is a method of `DryRun`.
"""

from forwarder.core.ssrf import AddressGuard
from forwarder.middleware.media.downloads import download
from forwarder.middleware.media.fetch import Fetcher
from forwarder.middleware.media.stage import MediaIO, with_media
from forwarder.middleware.media.uploads import UploadCache

__all__ = ["AddressGuard", "Fetcher", "MediaIO", "UploadCache", "download", "with_media"]
