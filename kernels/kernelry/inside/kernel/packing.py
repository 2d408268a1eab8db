r"""Messages as bytes that everybody can read, whatever text is in them.

Python's text may hold halves of characters ("\udcff", as in the name of a file that is not
UTF-8), which UTF-8 has not. Stock gives up on some of them, and makes of others bytes that
are no UTF-8: the error that a cell raised, or its reply, would never arrive.
"""

from collections.abc import Callable
from typing import Any

from .budget import encodable


def escaping(pack: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return `pack`, with what can't become UTF-8 escaped first.

    Args:
        pack: Makes bytes of what JSON knows.
    """

    def escaped_pack(part: Any) -> bytes:
        try:
            data = pack(part)
            if not data.isascii():
                data.decode("utf-8")
        except UnicodeError:
            return pack(escaped(part))
        return data

    return escaped_pack


def escaped(part: Any) -> Any:
    """Return the same with all lone surrogates escaped, in keys too."""
    if isinstance(part, str):
        return encodable(part)
    if isinstance(part, dict):
        return {escaped(key): escaped(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [escaped(item) for item in part]
    return part
