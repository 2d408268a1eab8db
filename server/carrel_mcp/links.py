"""How files of the workspace are called in the protocol."""

from urllib.parse import quote

SCHEME = "workspace://"


def uri_of(path: str) -> str:
    """Return the address of a workspace file, whatever characters its path has."""
    return SCHEME + quote(path)
