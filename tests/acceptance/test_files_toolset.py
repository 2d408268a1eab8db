"""The toolset `files`, the scripts and the resources: nothing but the workspace, by any road."""

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from PIL import Image

from tests.faults.matrix import fault

from .harness import Agent, Place, RawServer, stdio_agent
from .test_bad_input import check_refusals

FLAGS = ("--toolsets", "core,files")
SHARES_A_SERVER = True
SECRET = "the secret of this machine"
ROUNDS = 150  # of each road, against a cell that swaps names all the time

PLANT = """
import os
import shutil
from collections.abc import Iterator
os.symlink({secret!r}, "link.txt")
os.symlink({secret!r}, "scripts/link.py")
os.symlink(os.path.dirname({secret!r}), "away")
os.symlink("/dev/zero", "zero")
os.symlink("/etc/passwd", "passwd")
os.mkfifo("fifo")
open("sparse", "wb").truncate(1 << 40)
open(b"caf\\xe9", "w").close()
"""

SWAP = """
import ctypes, os
os.mkdir("folder")
for name in ("folder/key.py", "file.py"):
    open(name, "w").write("print('harmless')")
os.symlink(os.path.dirname({secret!r}), "evil")
os.symlink({secret!r}, "link.py")
exchange = ctypes.CDLL(None).renameat2
print("swapping", flush=True)
while True:
    for name, other in ((b"folder", b"evil"), (b"file.py", b"link.py")):
        assert exchange(-100, name, -100, other, 2) == 0
"""

FORGED = """
from IPython.display import display
kernel = get_ipython().kernel
for saved in ({{"image/png": {path!r}}}, ["no dict"]):
    display({{"text/plain": "shown"}}, raw=True, metadata={{"kernelry_saved": saved}})
content = {{"file": {path!r}}}
kernel.session.send(
    kernel.iopub_socket, "kernelry_overflow", content, parent=kernel.get_parent("shell")
)
"""


@pytest.fixture
def secret(place: Place) -> Iterator[Path]:
    """A file beside the workspace; as a script it would say its content."""
    folder = place.root / "secret"
    folder.mkdir()
    key = folder / "key.py"
    key.write_text(f"print('{SECRET}')")
    yield key
    shutil.rmtree(folder)


async def read_resource(agent: Agent, path: str) -> str:
    """Return a resource of the workspace, or the error it is answered with."""
    try:
        [content] = (await agent.client.read_resource(f"workspace://{path}")).contents
    except MCPError as error:
        return str(error)
    return str(content)


def picture(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 100).save(buffer, "PNG")
    return buffer.getvalue()


async def test_the_tools_are_offered_on_request_and_only_those_that_fit(place: Place) -> None:
    reading, writing = {"list_files", "read_file"}, {"write_file", "delete_file"}
    for flags, there in (
        ((), set()),
        (FLAGS, reading | writing),
        (("--toolsets", "all"), reading | writing),
        ((*FLAGS, "--read-only"), reading),
    ):
        async with stdio_agent(place, *flags) as agent:
            tools = {tool.name for tool in (await agent.client.list_tools()).tools}
            assert tools & (reading | writing) == there


async def test_files_are_written_read_listed_and_deleted(agent: Agent, place: Place) -> None:
    made = await agent.ask("write_file", path="./data//in.csv", content="a,b\n1,2\n")
    assert made == {"path": "data/in.csv", "size": 8, "created": True, "url": ""}
    assert await agent.value("open('data/in.csv').read()") == repr("a,b\n1,2\n")
    more = await agent.ask("write_file", path="data/in.csv", content="é\n", append=True)
    assert (more["size"], more["created"]) == (11, False)
    read = await agent.call("read_file", path="data/in.csv")
    assert read.data["text"] == "a,b\n1,2\né\n"
    assert (read.data["encoding"], read.data["mime_type"]) == ("text", "text/csv")
    assert read.text.endswith("[data/in.csv: characters 0 to 10 of 10; the end]\na,b\n1,2\né\n")
    assert "overwrite=true" in await agent.refused("write_file", path="data/in.csv", content="")
    await agent.ask("write_file", path="data/in.csv", content="", overwrite=True)
    assert (place.workspace / "data" / "in.csv").read_bytes() == b""
    listed = await agent.call("list_files", pattern="*.csv", recursive=True)
    assert [entry["path"] for entry in listed.data["files"]] == ["data/in.csv"]
    assert "data/in.csv  0 bytes" in listed.text
    folders = await agent.ask("list_files", limit=2)
    assert [entry["path"] for entry in folders["files"]] == ["data", "outputs"]
    assert (folders["total"], folders["next_offset"], folders["complete"]) == (4, 2, True)
    assert "not empty" in await agent.refused("delete_file", path="data")
    assert (await agent.ask("delete_file", path="data/in.csv"))["type"] == "file"
    assert (await agent.ask("delete_file", path="data"))["type"] == "folder"
    assert "list_files" in await agent.refused("read_file", path="data/in.csv")


async def test_a_long_text_is_read_by_pages(agent: Agent, place: Place) -> None:
    text = "".join(f"line {i}\n" for i in range(3000))
    (place.workspace / "long.log").write_text(text)
    pages, offset = [], 0
    while offset >= 0:
        page = await agent.ask("read_file", path="long.log", offset=offset)
        assert (page["offset"], page["total_chars"]) == (offset, len(text))
        pages.append(page["text"])
        offset = page["next_offset"]
    assert "".join(pages) == text
    assert len(pages) == 4


async def test_an_image_is_shown_and_other_data_is_base64_or_a_link(
    agent: Agent, place: Place
) -> None:
    for side in (20, 1500):
        await agent.ask(
            "write_file",
            path=f"{side}.png",
            content=base64.b64encode(picture(side)).decode(),
            encoding="base64",
        )
        shown = await agent.call("read_file", path=f"{side}.png")
        [image] = [block for block in shown.content if block.type == "image"]
        with Image.open(io.BytesIO(base64.b64decode(image.data))) as opened:
            assert 0 < opened.width <= side
        assert (shown.data["encoding"], shown.data["text"]) == ("image", "")
    (place.workspace / "fake.png").write_bytes(b"\0 no picture")
    (place.workspace / "small.bin").write_bytes(b"\0\xff")
    for path in ("fake.png", "small.bin"):
        data = await agent.ask("read_file", path=path)
        assert data["encoding"] == "base64"
        assert base64.b64decode(data["text"]) == (place.workspace / path).read_bytes()
    (place.workspace / "large.bin").write_bytes(b"\0" * 700_001)
    assert "run_python_code" in await agent.refused("read_file", path="large.bin")


@pytest.mark.parametrize("name", ["plain.bin", "with space é %41#?.bin"])
async def test_the_link_to_a_file_leads_to_it(agent: Agent, place: Place, name: str) -> None:
    content = b"\0\1" * 10_000
    (place.workspace / name).write_bytes(content)
    linked = await agent.call("read_file", path=name)
    [link] = [block for block in linked.content if block.type == "resource_link"]
    [found] = (await agent.client.read_resource(link.uri)).contents
    assert base64.b64decode(found.model_dump()["blob"]) == content


@fault("A6")
async def test_what_a_cell_leaves_in_the_workspace_leads_no_tool_out_of_it(
    agent: Agent, secret: Path
) -> None:
    planted = await agent.run(PLANT.format(secret=str(secret)))
    assert planted["status"] == "completed"
    before = secret.stat()
    links = ("link.txt", "away", "zero", "passwd", "scripts/link.py", "away/key.py")
    await check_refusals(agent, [("read_file", {"path": path}) for path in links], "link")
    for more in ({}, {"overwrite": True}, {"append": True}):
        cases = [("write_file", {"path": path, "content": "new", **more}) for path in links]
        await check_refusals(agent, cases, "link")
    await check_refusals(agent, [("list_files", {"path": "away"})], "link")
    await check_refusals(agent, [("run_script", {"path": path}) for path in links], "link")
    paths = ("fifo", "sparse", "scripts", "../secret/key.py", str(secret), "a\0b", "x" * 10_000)
    cases = [("read_file", {"path": path}) for path in paths]
    cases += [("run_script", {"path": path}) for path in paths]
    cases += [("write_file", {"path": path, "content": ""}) for path in paths]
    cases += [("delete_file", {"path": path}) for path in (".", "", *paths[3:])]
    cases += [("write_file", {"path": "x", "content": "?", "encoding": "base64"})]
    cases += [("write_file", {"path": "con.txt", "content": ""})]
    await check_refusals(agent, cases)
    listed = await agent.ask("list_files", recursive=True)
    kinds = {entry["path"]: entry["type"] for entry in listed["files"]}
    assert (kinds["away"], kinds["fifo"], kinds["caf\\xe9"]) == ("link", "other", "file")
    assert "away/key.py" not in kinds
    for path in (*links, *paths):
        answer = await read_resource(agent, path)
        assert SECRET not in answer
        assert len(answer) < 1000 or path == paths[-1]
    for path in ("link.txt", "away", "fifo"):
        await agent.ask("delete_file", path=path)
    assert (secret.stat().st_mtime_ns, os.listdir(secret.parent)) == (
        before.st_mtime_ns,
        ["key.py"],
    )
    assert await agent.value("1+1") == "2"


async def test_a_cell_that_swaps_names_gets_no_road_out_of_the_workspace(
    agent: Agent, place: Place, secret: Path
) -> None:
    running = await agent.run(SWAP.format(secret=str(secret)), wait=0)
    while "swapping" not in (await agent.ask("get_execution", **id_of(running)))["stdout"]:
        pass
    said: list[str] = []
    for i in range(ROUNDS):
        for path in ("folder/key.py", "file.py"):
            said.append((await agent.call("read_file", path=path)).text)
            said.append(await read_resource(agent, path))
        said.append((await agent.call("list_files", path="folder")).text)
        for path, more in ((f"folder/{i}", {}), ("file.py", {"append": True})):
            said.append((await agent.call("write_file", path=path, content="#", **more)).text)
        said.append((await agent.call("delete_file", path=f"folder/{i}")).text)
    together = "\n".join(said)
    assert SECRET not in together
    assert "harmless" in together
    assert "links are not followed" in together
    assert os.listdir(secret.parent) == ["key.py"]
    assert secret.read_text() == f"print('{SECRET}')"
    assert (await agent.ask("interrupt_execution"))["interrupted"]
    assert "Traceback" not in place.log.read_text()


def id_of(execution: dict[str, Any]) -> dict[str, str]:
    return {"execution_id": execution["execution_id"]}


async def test_completions_stay_in_the_workspace(agent: Agent, secret: Path) -> None:
    from mcp.types import ResourceTemplateReference

    await agent.run(PLANT.format(secret=str(secret)))
    reference = ResourceTemplateReference(type="ref/resource", uri="workspace://{+path}")
    for start, expected in (
        ("s", ["scripts/", "sparse"]),
        ("scripts/", ["scripts/link.py"]),
        ("away/", []),
        ("../secret/", []),
        ("/etc/", []),
    ):
        answer = await agent.client.complete(reference, {"name": "path", "value": start})
        assert answer.completion.values == expected


async def test_a_kernel_that_names_files_to_the_server_names_none_elsewhere(
    agent: Agent, place: Place, secret: Path
) -> None:
    image = secret.with_name("image.png")
    image.write_bytes(picture(20))
    await agent.run("print('x' * 300_000)")  # makes the folder that the names are relative to
    for path in (str(secret), "../../../../secret/key.py", str(image), "../secret/image.png"):
        done = await agent.call("run_python_code", code=FORGED.format(path=path))
        assert done.data["status"] == "completed"
        page = await agent.call("get_execution", **id_of(done.data), offset=0)
        assert SECRET not in json.dumps([done.data, page.data]) + done.text + page.text
        assert "image" not in [block.type for block in done.content]
        assert "shown" in page.text
    assert "Traceback" not in place.log.read_text()


async def test_spilled_output_that_a_cell_replaces_is_said_to_be_gone(
    agent: Agent, place: Place, secret: Path
) -> None:
    long = await agent.run("print('x' * 300_000)")
    [spilled] = place.state.glob(f"sessions/*/spill/{long['execution_id']}*")
    for trick in (f"os.symlink({str(secret)!r}, p)", "os.mkfifo(p)"):
        await agent.run(f"import os; p = {str(spilled)!r}; os.unlink(p); {trick}")
        page = await agent.call("get_execution", **id_of(long), offset=99_000, limit=40_000)
        assert SECRET not in page.text
        assert "not kept any more" in page.text


@fault("A6")
def test_lone_surrogates_are_refused(place: Place) -> None:
    with RawServer(place, FLAGS) as server:
        for arguments in (
            {"path": "\ud800.txt", "content": "x"},
            {"path": "\udcff.txt", "content": "x"},
            {"path": "x.txt", "content": "\ud800"},
        ):
            answer = server.answer(server.start_tool("write_file", **arguments))
            assert "lone surrogate" in answer["error"]["message"]
        assert server.tool("list_files", recursive=True)["total"] == 3
