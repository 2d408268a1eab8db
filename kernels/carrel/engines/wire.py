"""The Jupyter wire protocol: frames to messages and back.

The part of jupyter_client's Session that a client of one kernel needs, because importing
jupyter_client costs a server 0.27 s of its start (reference/kernels.md section 1) and its
date parsing a good part of a short execution. Source: "The Wire Protocol" in
https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

import hashlib
import hmac
import json
import secrets
from datetime import UTC, datetime
from typing import Any

DELIMITER = b"<IDS|MSG>"
PROTOCOL_VERSION = "5.3"

Message = dict[str, Any]


class BadMessageError(ValueError):
    """Frames that are no message of this kernel."""


class Wire:
    """Signs and reads the messages of one client of one kernel."""

    def __init__(self, key: bytes, client_id: str) -> None:
        #: identifies this client to the kernel, over reconnects too
        self.client_id = client_id
        self._mac = hmac.new(key, digestmod=hashlib.sha256)

    def request(self, msg_type: str, content: Message, msg_id: str = "") -> tuple[str, list[bytes]]:
        """Return the msg_id and the frames of a request."""
        msg_id = msg_id or new_id()
        header = {
            "msg_id": msg_id,
            "msg_type": msg_type,
            "session": self.client_id,
            "username": "carrel",
            "date": datetime.now(UTC).isoformat(),
            "version": PROTOCOL_VERSION,
        }
        parts = [pack(header), b"{}", b"{}", pack(content)]
        return msg_id, [DELIMITER, self._sign(parts), *parts]

    def read(self, frames: list[bytes]) -> Message:
        """Return the message in `frames`.

        Raises:
            BadMessageError: No message, or not signed with this kernel's key.
        """
        try:
            start = frames.index(DELIMITER) + 1
            signature, *parts = frames[start : start + 5]
            if not hmac.compare_digest(signature, self._sign(parts)):
                raise BadMessageError("wrong signature")
            header, parent, metadata, content = (json.loads(part) for part in parts)
            return {
                "header": header,
                "parent_header": parent,
                "metadata": metadata,
                "content": content,
                "msg_type": header["msg_type"],
                "parent_id": parent.get("msg_id", ""),
            }
        except BadMessageError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadMessageError(str(error)) from error

    def _sign(self, parts: list[bytes]) -> bytes:
        mac = self._mac.copy()
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode("ascii")


def pack(part: Message) -> bytes:
    """Return a message part as bytes."""
    return json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def new_id() -> str:
    """Return a fresh id, 128 random bits."""
    return secrets.token_hex(16)
