"""Images and files on their way upstream: handed on, fetched, inlined, uploaded or refused.

`places.py` finds them in a request, `policy.py` decides by the upstream's profile what becomes of
each.  `data.py` reads and writes data URLs, `fetch.py` fetches what only has an address, as far as
`addresses.py` lets it, `uploads.py` brings files to
upstreams that take them only by id, and `downloads.py` gets them from there.
"""

from forwarder.media.addresses import Guard
from forwarder.media.downloads import download
from forwarder.media.fetch import Fetcher
from forwarder.media.policy import Hands, with_media
from forwarder.media.uploads import Uploads

__all__ = ["Fetcher", "Guard", "Hands", "Uploads", "download", "with_media"]
