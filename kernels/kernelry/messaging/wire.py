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
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kernelry import bounds

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

    def read(
        self, frames: list[bytes], wanted: Callable[[str, str], bool] = lambda kind, parent: True
    ) -> Message | None:
        """Return the message in `frames`; None: it is not wanted, and was not looked into.

        Args:
            frames: What has arrived.
            wanted: Says so of its type and the request that it answers; both may be forged.

        Raises:
            BadMessageError: No message, or not signed with this kernel's key.
        """
        try:
            start = frames.index(DELIMITER) + 1
            signature, *parts = frames[start : start + 5]
            if len(parts) != 4 or len(parts[0]) + len(parts[1]) > bounds.HEAD_BYTES:
                raise BadMessageError("no message")
            header, parent = map(load, parts[:2])
            kind, parent_id = header["msg_type"], parent.get("msg_id", "")
            if not isinstance(kind, str) or not isinstance(parent_id, str):
                raise BadMessageError("no message")
            if not wanted(kind, parent_id):
                return None
            if not hmac.compare_digest(signature, self._sign(parts)):
                raise BadMessageError("wrong signature")
            metadata, content = map(load, parts[2:])
            if not isinstance(content, dict):
                raise BadMessageError("no message")
            return {
                "header": header,
                "parent_header": parent,
                "metadata": metadata,
                "content": content,
                "msg_type": kind,
                "parent_id": parent_id,
                "size": sum(map(len, parts)),
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
        ValueError: It is no JSON, or too much.
        RecursionError: It is nested too deeply.
    """
    comma, square, curly = (",", "[", "{") if isinstance(data, str) else (b",", b"[", b"{")
    containers = data.count(square) + data.count(curly)  # type: ignore[arg-type]
    if containers + data.count(comma) > bounds.JSON_ITEMS:  # type: ignore[arg-type]
        raise ValueError("too many values")
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    found = json.loads(text, parse_constant=lambda name: None)
    # Empty ones hold nothing, and are quickly counted; what holds something is looked into.
    empty = text.count("[]") + text.count("{}")
    if containers - empty >= bounds.JSON_DEPTH:
        check_depth(found)
    return escaped(found) if HALF.search(text) else found


def check_depth(part: Any) -> None:
    """Raise ValueError if there are too many containers in each other."""
    level = [part] if isinstance(part, dict | list) else []
    for _ in range(bounds.JSON_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ValueError("too many containers in each other")


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
