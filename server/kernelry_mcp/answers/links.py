"""How files of the workspace, and artifacts, are called in the protocol."""

from urllib.parse import quote

SCHEME = "workspace://"
ARTIFACT_SCHEME = "artifact://"
#: how much one link leads to; clients drop events over 1 MiB, and base64 adds a third
FILE_BYTES = 700_000


def uri_of(path: str) -> str:
    """Return the address of a workspace file, whatever characters its path has."""
    return SCHEME + quote(path)


def artifact_uri(artifact_id: str) -> str:
    """Return the address of an artifact."""
    return ARTIFACT_SCHEME + artifact_id
