"""Files in and out of the workspace by links, without passing the model."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import psutil
import pytest
from mcp.types import BlobResourceContents
from starlette.types import Receive, Scope, Send

from kernelry_mcp.links import Links, Purpose
from kernelry_mcp.transports.http.files import FileLinks

from .harness import Agent, HttpServer, Place, http_agent, http_server, stdio_agent

FLAGS = ("--toolsets", "all")
LARGE = 300 << 20
CHUNK = 1 << 20
GROWTH = 60 << 20  # bytes that the server may grow by while it serves a large file


@pytest.fixture
def served(place: Place) -> Iterator[HttpServer]:
    with http_server(place, *FLAGS) as server:
        yield server


def link_in(text: str) -> str:
    """Return the link that an answer tells."""
    found = re.search(r"http://\S+/files/\S+", text)
    assert found, text
    return found[0]


def memory_of(server: HttpServer) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def upload_link(server: HttpServer, path: str, **more: object) -> str:
    async with http_agent(server) as agent:
        return link_in(
            (await agent.call("write_file", path=path, content="", link=True, **more)).text
        )


async def download_link(server: HttpServer, path: str) -> str:
    async with http_agent(server) as agent:
        return link_in((await agent.call("read_file", path=path, link=True)).text)


async def test_py_16_300_mb_go_in_and_out_each_resumed_once_with_little_memory(
    served: HttpServer, place: Place, tmp_path: Path
) -> None:
    source, block = tmp_path / "large.bin", os.urandom(CHUNK)
    with source.open("wb") as file:
        for n in range(LARGE // CHUNK):
            file.write(n.to_bytes(4, "big") + block[4:])
    wanted = digest_of(source)
    link = await upload_link(served, "uploads/large.bin")
    before, most = memory_of(served), 0
    half = LARGE // 2 + 123

    def piece(start: int, end: int) -> Iterator[bytes]:
        nonlocal most
        with source.open("rb") as file:
            file.seek(start)
            while (left := end - file.tell()) > 0:
                most = max(most, memory_of(served))
                yield file.read(min(CHUNK, left))

    with httpx2.Client(timeout=120) as http:
        first = http.put(
            link,
            content=piece(0, half),
            headers={"Content-Range": f"bytes 0-{half - 1}/{LARGE}"},
        )
        assert (first.status_code, first.headers["upload-offset"]) == (202, str(half))
        assert not (place.workspace / "uploads" / "large.bin").exists()
        there = int(http.head(link).headers["upload-offset"])
        assert there == half
        rest = http.put(
            link,
            content=piece(there, LARGE),
            headers={"Content-Range": f"bytes {there}-{LARGE - 1}/{LARGE}"},
        )
        assert (rest.status_code, rest.json()["size"]) == (201, LARGE)
        made = place.workspace / "uploads" / "large.bin"
        assert digest_of(made) == wanted

        link = await download_link(served, "uploads/large.bin")
        digest, got, tag = hashlib.sha256(), 0, ""
        with http.stream("GET", link) as response:
            tag = response.headers["etag"]
            for data in response.iter_bytes(CHUNK):
                digest.update(data)
                got += len(data)
                most = max(most, memory_of(served))
                if got > half:
                    break
        headers = {"Range": f"bytes={got}-", "If-Range": tag}
        with http.stream("GET", link, headers=headers) as response:
            assert response.status_code == 206
            assert response.headers["content-range"] == f"bytes {got}-{LARGE - 1}/{LARGE}"
            for data in response.iter_bytes(CHUNK):
                digest.update(data)
    assert digest.hexdigest() == wanted
    assert most - before < GROWTH


async def test_a_link_takes_one_file_one_purpose_and_no_more_bytes_than_it_says(
    served: HttpServer, place: Place
) -> None:
    link = await upload_link(served, "outputs/a.txt")
    parts = urlsplit(link)
    given = {name: values[0] for name, values in parse_qs(parts.query).items()}
    changes = {
        "another file": (parts.path.replace("a.txt", "b.txt"), given),
        "another purpose": (parts.path, given | {"for": "download"}),
        "more bytes": (parts.path, given | {"size": "9" * 15}),
        "more time": (parts.path, given | {"until": str(int(given["until"]) + 1000)}),
        "another signature": (parts.path, given | {"signature": "0" * 64}),
        "no signature": (parts.path, {k: v for k, v in given.items() if k != "signature"}),
        "a way out": ("/files/../../etc/passwd", given),
        "an encoded way out": ("/files/..%2f..%2fetc%2fpasswd", given),
    }
    with httpx2.Client(timeout=60) as http:
        base = f"{parts.scheme}://{parts.netloc}"
        for what, (path, query) in changes.items():
            answer = http.put(f"{base}{path}?{urlencode(query)}", content=b"forged")
            assert answer.status_code in (401, 403), (what, answer.status_code)
        assert http.get(link).status_code == 405
        assert http.put(link, content=b"mine").status_code == 201
        assert http.put(link, content=b"again").status_code == 409  # it is there already
        assert (place.workspace / "outputs" / "a.txt").read_bytes() == b"mine"
        replacing = await upload_link(served, "outputs/a.txt", overwrite=True)
        assert http.put(replacing, content=b"newer").status_code == 201
        assert (place.workspace / "outputs" / "a.txt").read_bytes() == b"newer"
        assert http.get(f"{base}/files/outputs/a.txt").status_code == 403


async def test_a_link_of_another_server_or_of_before_is_refused(
    place: Place, tmp_path: Path
) -> None:
    (place.root / "workspace" / "outputs").mkdir(parents=True)
    (place.workspace / "outputs" / "kept.txt").write_text("kept")
    with http_server(place, *FLAGS) as first:
        link = await download_link(first, "outputs/kept.txt")
        with httpx2.Client(timeout=60) as http:
            assert http.get(link).text == "kept"
    with http_server(place, *FLAGS) as second, httpx2.Client(timeout=60) as http:
        foreign = urlsplit(link)._replace(netloc="{}:{}".format(*second.address)).geturl()
        assert http.get(foreign).status_code == 403


async def test_an_expired_link_is_refused_but_what_has_begun_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application itself, in this process, so that its clock can be moved."""
    (place.workspace / "outputs").mkdir(parents=True)
    (place.workspace / "outputs" / "a.txt").write_text("a")

    async def rest(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it went on to the rest")

    links = Links()
    app = FileLinks(rest, links, place.workspace)
    base = "http://localhost"
    reading, _ = links.make(base, "outputs/a.txt", Purpose.DOWNLOAD, 1)
    fresh, begun = (links.make(base, f"outputs/{n}", Purpose.UPLOAD, 9)[0] for n in "bc")
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app)) as http:
        first = {"Content-Range": "bytes 0-1/4"}
        assert (await http.put(begun, content=b"12", headers=first)).status_code == 202
        assert (await http.get(reading)).text == "a"
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 601)
        assert (await http.get(reading)).status_code == 403
        assert (await http.put(fresh, content=b"b")).status_code == 403
        last = {"Content-Range": "bytes 2-3/4"}
        assert (await http.put(begun, content=b"34", headers=last)).status_code == 201
    assert (place.workspace / "outputs" / "c").read_bytes() == b"1234"


async def test_a_part_that_a_cell_changed_is_not_taken_for_what_came(
    served: HttpServer, place: Place
) -> None:
    link = await upload_link(served, "outputs/whole.bin")
    with httpx2.Client(timeout=60) as http:
        first = {"Content-Range": "bytes 0-3/8"}
        assert http.put(link, content=b"1234", headers=first).status_code == 202
        [part] = (place.workspace / "uploads" / ".parts").iterdir()
        part.write_bytes(b"other things")
        last = {"Content-Range": "bytes 4-7/8"}
        refused = http.put(link, content=b"5678", headers=last)
        assert refused.status_code == 409
        assert not (place.workspace / "outputs" / "whole.bin").exists()
        script = place.workspace / "outputs" / "run.sh"
        script.write_text("old")
        script.chmod(0o700)
        link = await upload_link(served, "outputs/run.sh", overwrite=True)
        assert http.put(link, content=b"new").status_code == 201
        assert (script.read_text(), script.stat().st_mode & 0o777) == ("new", 0o700)


async def test_an_upload_that_is_too_large_or_out_of_order_leaves_nothing(
    place: Place,
) -> None:
    with http_server(place, *FLAGS, "--upload-bytes", "1000") as server:
        link = await upload_link(server, "uploads/small.bin")
        with httpx2.Client(timeout=60) as http:
            assert http.put(link, content=b"x" * 1001).status_code == 413
            parts = (b"x" * 600 for _ in range(2))  # without a length that could be believed
            assert http.put(link, content=parts).status_code == 413
            gap = {"Content-Range": "bytes 500-599/900"}
            refused = http.put(link, content=b"x" * 100, headers=gap)
            assert (refused.status_code, refused.headers["upload-offset"]) == (409, "0")
            short = {"Content-Range": "bytes 0-2/3"}
            assert http.put(link, content=b"x" * 9, headers=short).status_code == 400
            assert http.head(link).headers["upload-offset"] == "0"
            assert http.put(link, content=b"").status_code == 201
        assert (place.workspace / "uploads" / "small.bin").read_bytes() == b""


async def test_what_a_cell_put_in_the_way_of_a_link_is_not_followed(
    served: HttpServer, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    link = await upload_link(served, "outputs/deep/a.txt")
    (place.workspace / "outputs" / "deep").symlink_to(tmp_path / "outside")
    with httpx2.Client(timeout=60) as http:
        assert http.put(link, content=b"out").status_code in (404, 409)
        assert not list((tmp_path / "outside").iterdir())
        (place.workspace / "outputs" / "b.txt").write_text("b")
        reading = await download_link(served, "outputs/b.txt")
        (place.workspace / "outputs" / "b.txt").unlink()
        (place.workspace / "outputs" / "b.txt").symlink_to("/etc/hostname")
        assert http.get(reading).status_code in (404, 409)


async def test_on_stdio_the_path_on_this_machine_is_told(place: Place) -> None:
    async with stdio_agent(place, *FLAGS) as agent:
        await agent.run("open('outputs/a.bin', 'wb').write(bytes(10))")
        told = await agent.call("read_file", path="outputs/a.bin", link=True)
        assert f"on this machine: {place.workspace}/outputs/a.bin" in told.text
        bring = await agent.call("write_file", path="uploads/b.bin", content="", link=True)
        assert f"this path on this machine: {place.workspace}/uploads/b.bin" in bring.text
        part = await agent.client.read_resource("workspace://outputs/a.bin?offset=4&length=3")
        [content] = part.contents
        assert isinstance(content, BlobResourceContents)
        assert content.blob == "AAAA"


async def test_a_client_is_told_what_there_is_on_either_wire(
    place: Place, served: HttpServer
) -> None:
    for mode in ("auto", "legacy"):
        async with http_agent(served, mode=mode) as agent:
            check_instructions(agent, place)


def check_instructions(agent: Agent, place: Place) -> None:
    told = agent.client.instructions or ""
    assert len(told.splitlines()) == 8
    assert str(place.workspace) in told
    assert "Installed: " in told and "scripts/" in told
