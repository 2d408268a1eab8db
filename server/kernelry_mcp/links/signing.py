"""Make links to files, and tell ours from all others.

A link names one file, one purpose, how many bytes and until when, and bears a signature over all
of it by a key that this server has in memory: nobody can make one, change one, or use one of
another server. Whoever has it needs no token, so that a browser or curl can use it.
"""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, urlencode

PATH = "/files/"  # under which links lead
LIFETIME = 600.0  # seconds that a link is good for; what has begun by then goes on
KEY_BYTES = 32
NONCE_BYTES = 8
OVER = "this link was good for ten minutes; ask for another"


class LinkError(Exception):
    """A link is not ours, or not good any more."""


class Purpose(StrEnum):
    """What a link is for."""

    #: to read a file
    DOWNLOAD = "download"
    #: to make one
    UPLOAD = "upload"
    #: to make or replace one
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a link permits."""

    #: the file, relative to the workspace
    path: str
    #: what for
    purpose: Purpose
    #: bytes that an upload may have; of a download those that there were
    size: int
    #: seconds since the epoch until when
    until: int
    #: no other link's
    nonce: str

    @property
    def is_over(self) -> bool:
        """Say whether its time is over."""
        return time.time() > self.until


class Links:
    """The links of one server."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(KEY_BYTES)

    def make(self, base: str, path: str, purpose: Purpose, size: int) -> tuple[str, Grant]:
        """Return a link, and what it permits.

        Args:
            base: Scheme, host and port by which the client reaches this server.
            path: The file, relative to the workspace.
            purpose: What the link is for.
            size: Bytes.
        """
        nonce = secrets.token_hex(NONCE_BYTES)
        grant = Grant(path, purpose, size, int(time.time() + LIFETIME), nonce)
        query = {"for": purpose.value, "size": size, "until": grant.until, "nonce": nonce}
        signed = urlencode({**query, "signature": self._signature(grant)})
        return f"{base.rstrip('/')}{PATH}{quote(path)}?{signed}", grant

    def check(self, path: str, query: Mapping[str, str]) -> Grant:
        """Return what a link permits; whether its time is over the grant says.

        Args:
            path: The file that it names.
            query: The rest of it.

        Raises:
            LinkError: It was not made by this server.
        """
        try:
            purpose, size, until = Purpose(query["for"]), int(query["size"]), int(query["until"])
            grant = Grant(path, purpose, size, until, query["nonce"])
            given = query["signature"].encode("ascii")
        except (KeyError, ValueError) as error:
            raise LinkError("this is no link of this server") from error
        if not hmac.compare_digest(given, self._signature(grant).encode("ascii")):
            raise LinkError("this is no link of this server")
        return grant

    def _signature(self, grant: Grant) -> str:
        said = json.dumps([grant.path, grant.purpose.value, grant.size, grant.until, grant.nonce])
        return hmac.new(self._key, said.encode("utf-8"), hashlib.sha256).hexdigest()
