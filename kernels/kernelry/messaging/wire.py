"""The Jupyter wire protocol: frames to messages and back.

The part of jupyter_client's Session that a client of one kernel needs, because importing
jupyter_client costs a server 0.27 s of its start (reference/kernels.md section 1) and its
date parsing a good part of a short execution. Source: "The Wire Protocol" in
https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

import hashlib
import hmac
import json
import re
import secrets
from datetime import UTC, datetime
from typing import Any

DELIMITER = b"<IDS|MSG>"
PROTOCOL_VERSION = "5.3"
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # may be one; whole characters have two

Message = dict[str, Any]
#: what reading a message raises whose content is not what its kind says
UNSOUND = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


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
            "username": "kernelry",
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
            header, parent, metadata, content = map(load, parts)
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
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadMessageError(str(error)) from error

    def _sign(self, parts: list[bytes]) -> bytes:
        mac = self._mac.copy()
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode("ascii")


def pack(part: Message) -> bytes:
    """Return a message part as bytes."""
    return json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def load(data: bytes | str) -> Any:
    """Return what JSON from a kernel says, with text that can be kept and sent on.

    Halves of characters, which UTF-8 has not, are escaped; NaN, which JSON has not, is nothing.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    found = json.loads(text, parse_constant=lambda name: None)
    return escaped(found) if HALF.search(text) else found


def escaped(part: Any) -> Any:
    """Return the same with all halves of characters escaped, in keys too."""
    if isinstance(part, str):
        return part.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(part, dict):
        return {escaped(key): escaped(value) for key, value in part.items()}
    return [escaped(item) for item in part] if isinstance(part, list) else part


def new_id() -> str:
    """Return a fresh id, 128 random bits."""
    return secrets.token_hex(16)
