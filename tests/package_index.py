"""A package index on loopback, and the packages that it serves, good ones and bad ones."""

import base64
import hashlib
import io
import tarfile
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

HANG = 120.0  # seconds


def wheel(
    name: str = "tiny",
    version: str = "1.0",
    files: dict[str, str] | None = None,
    *,
    requires: tuple[str, ...] = (),
    record: str = "",
) -> dict[str, bytes]:
    """Return a wheel by its file name.

    Args:
        name: Also that of its module, where no files are given.
        version: Also the module's value.
        files: Path in the archive -> text.
        requires: What it depends on.
        record: Lines of its RECORD besides the true ones.
    """
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content = dict(files if files is not None else {f"{name}.py": f"value = {version!r}\n"})
    content[f"{info}/METADATA"] = metadata + "".join(f"Requires-Dist: {r}\n" for r in requires)
    content[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    lines = [f"{path},{digest(text)},{len(text)}" for path, text in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]) + f"\n{record}"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return {f"{name}-{version}-py3-none-any.whl": buffer.getvalue()}


def digest(text: str) -> str:
    """Return a hash as RECORD writes it."""
    found = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(found).decode().rstrip("=")


#: a build backend that leaves what it was made with
BACKEND = """\
import base64, os, pathlib, sys, zipfile

WHEELS = {wheels!r}

def build_wheel(out, settings=None, metadata=None):
    for name, data in WHEELS.items():
        (pathlib.Path(out) / name).write_bytes(base64.b64decode(data))
    out = pathlib.Path(out)
{code}
    return next(iter(WHEELS), None)
"""


def buildable(
    name: str,
    wheels: dict[str, bytes] | None = None,
    *,
    code: str = "",
    needs: tuple[str, ...] = (),
    more: str = "",
    static: str = "",
) -> dict[str, bytes]:
    """Return a source distribution, with a backend of its own, by its file name.

    Args:
        name: Of the package; its version is 1.0.
        wheels: What its build leaves; None: a good wheel.
        code: What else its build does, knowing `out`, where its wheel is.
        needs: What its build needs.
        more: More of its backend.
        static: More of its metadata, which then is told beforehand: for uv it need not be built.
    """
    left = wheel(name) if wheels is None else wheels
    encoded = {file: base64.b64encode(data).decode() for file, data in left.items()}
    indented = textwrap.indent(code, "    ")
    system = f"requires = {list(needs)!r}\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    files = {
        "pyproject.toml": f"[build-system]\n{system}",
        "backend.py": BACKEND.format(wheels=encoded, code=indented) + more,
    }
    return sdist(name, files, static=static)


def sdist(name: str, files: dict[str, str], *, static: str = "") -> dict[str, bytes]:
    """Return a source distribution of version 1.0 by its file name."""
    buffer = io.BytesIO()
    kind = "2.2" if static else "2.1"
    metadata = f"Metadata-Version: {kind}\nName: {name}\nVersion: 1.0\n{static}"
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, text in {**files, "PKG-INFO": metadata}.items():
            member = tarfile.TarInfo(f"{name}-1.0/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return {f"{name}-1.0.tar.gz": buffer.getvalue()}


class Index(ThreadingHTTPServer):
    """A package index on loopback."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        #: file name -> content
        self.files = dict(files or wheel())
        #: USER:PASSWORD that everybody has to give; empty: nobody
        self.password = ""
        #: sha256 that pages claim; empty: none
        self.claimed_hash = ""
        #: set when files may be sent
        self.may_send = threading.Event()
        self.may_send.set()
        #: set when somebody asked for a file
        self.was_asked = threading.Event()
        #: names of files that were asked for
        self.asked: list[str] = []
        #: packages whose pages were asked for
        self.looked_up: list[str] = []
        #: packages whose files are not sent while `may_send` is not set; empty: all
        self.held: set[str] = set()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}/simple"


class Answer(BaseHTTPRequestHandler):
    """Serves the pages of packages and their files."""

    def do_GET(self) -> None:
        index = self.server
        assert isinstance(index, Index)
        if index.password:
            wanted = base64.b64encode(index.password.encode()).decode()
            if self.headers.get("Authorization") != f"Basic {wanted}":
                self.send(b"", "text/plain", 401)
                return
        kind, _, name = self.path.strip("/").partition("/")
        if kind == "files":
            index.asked.append(name)
            if not index.held or name.partition("-")[0] in index.held:
                index.was_asked.set()
                index.may_send.wait(HANG)
            self.send(index.files[name], "application/octet-stream")
            return
        index.looked_up.append(name)
        fragment = f"#sha256={index.claimed_hash}" if index.claimed_hash else ""
        wanted = name.replace("-", "_")
        files = [file for file in index.files if file.partition("-")[0] == wanted]
        links = [f'<a href="/files/{file}{fragment}">{file}</a>' for file in files]
        page = f"<html><body>{''.join(links)}</body></html>"
        self.send(page.encode(), "text/html", 200 if files else 404)

    do_HEAD = do_GET

    def send(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="packages"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(files: dict[str, bytes] | None = None) -> Iterator[Index]:
    """Serve an index until the end."""
    server = Index(files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.may_send.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def in_use(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Iterator[Index]:
    """Serve an index that uv uses, with a cache of its own in a folder."""
    with serving(files) as index:
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        monkeypatch.setenv("UV_CACHE_DIR", str(folder / "uv-cache"))
        yield index
