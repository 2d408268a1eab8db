"""The toolset `artifacts` and its resources, through a real client."""

import base64
import random
import signal
from datetime import datetime, timedelta

import pytest
from mcp import MCPError
from mcp.types import ResourceTemplateReference

from .harness import Agent, Place, stdio_agent
from .test_bad_input import check_refusals
from .test_files_toolset import picture

FLAGS = ("--toolsets", "core,artifacts")
TOOLS = {"store_artifact", "get_artifact", "query_artifacts", "delete_artifact"}
READING = {"get_artifact", "query_artifacts"}


async def names(agent: Agent, **query: object) -> list[str]:
    return [a["name"] for a in (await agent.ask("query_artifacts", **query))["artifacts"]]


async def test_the_tools_are_offered_on_request_and_only_those_that_fit(place: Place) -> None:
    for flags, there in (((), set()), (FLAGS, TOOLS), ((*FLAGS, "--read-only"), READING)):
        async with stdio_agent(place, *flags) as agent:
            tools = {tool.name for tool in (await agent.client.list_tools()).tools}
            assert tools & TOOLS == there


async def test_ls_10_an_artifact_is_stored_read_found_and_deleted(agent: Agent) -> None:
    stored = await agent.call(
        "store_artifact",
        name="report.csv",
        content="a,b\n1,2\n",
        tags=["final"],
        metadata={"rows": 1},
    )
    data = stored.data
    assert stored.text.startswith(f"Stored 'report.csv' as {data['artifact_id']}")
    assert (data["session_id"], data["version"], data["size"]) == ("default", 1, 8)
    for key in (data["artifact_id"], "report.csv"):
        read = await agent.call("get_artifact", artifact_id=key)
        assert read.text.endswith("characters 0 to 8 of 8; the end]\na,b\n1,2\n")
        assert (read.data["text"], read.data["encoding"]) == ("a,b\n1,2\n", "text")
        assert (read.data["session_id"], read.data["next_offset"]) == ("default", -1)
        found = read.data["artifact"]
        assert (found["type"], found["mime_type"]) == ("agent_output", "text/csv")
        assert (found["tags"], found["metadata"]) == (["final"], {"rows": 1})
    again = await agent.ask("store_artifact", name="report.csv", content="new")
    assert (again["version"], again["previous"]) == (2, data["artifact_id"])
    assert (await agent.ask("get_artifact", artifact_id="report.csv"))["text"] == "new"
    gone = await agent.ask("delete_artifact", artifact_id=again["artifact_id"])
    assert (gone["session_id"], gone["name"], gone["version"]) == ("default", "report.csv", 2)
    assert "query_artifacts" in await agent.refused(
        "get_artifact", artifact_id=again["artifact_id"]
    )
    assert (await agent.ask("get_artifact", artifact_id="report.csv"))["text"] == "a,b\n1,2\n"


@pytest.mark.parametrize("text", ['{"step": 1}', "[1, 2]", "null", "true", '"quoted"'])
async def test_text_that_is_json_is_stored_as_it_is(agent: Agent, text: str) -> None:
    await agent.ask("store_artifact", name="data.json", content=text)
    assert (await agent.ask("get_artifact", artifact_id="data.json"))["text"] == text


async def test_data_is_stored_as_base64_or_from_the_workspace_and_read_by_pages(
    agent: Agent, place: Place
) -> None:
    data = random.Random(1).randbytes(20_000)
    (place.workspace / "outputs").mkdir(exist_ok=True)
    (place.workspace / "outputs" / "x.bin").write_bytes(data)
    made = await agent.ask(
        "store_artifact",
        name="one",
        content=base64.b64encode(data).decode(),
        encoding="base64",
        type="user_input",
    )
    same = await agent.ask("store_artifact", name="two", path="outputs/x.bin")
    assert made["hash"] == same["hash"]
    pages, offset = [], 0
    while offset >= 0:
        page = await agent.call("get_artifact", artifact_id=same["artifact_id"], offset=offset)
        assert page.data["encoding"] == "base64"
        assert page.data["total"] == len(data)
        pages.append(base64.b64decode(page.data["text"]))
        offset = page.data["next_offset"]
    assert b"".join(pages) == data
    assert len(pages) > 2
    image = await agent.ask(
        "store_artifact",
        name="p.png",
        content=base64.b64encode(picture(30)).decode(),
        encoding="base64",
    )
    shown = await agent.call("get_artifact", artifact_id=image["artifact_id"])
    assert shown.data["encoding"] == "image"
    assert [block.type for block in shown.content] == ["text", "image"]


async def test_what_is_too_long_for_an_answer_comes_with_a_link_to_it(agent: Agent) -> None:
    text = "line é\n" * 10_000
    made = await agent.ask("store_artifact", name="long.txt", content=text)
    page = await agent.call("get_artifact", artifact_id=made["artifact_id"], limit=1000)
    assert page.data["text"] == text[:1000]
    [link] = [block for block in page.content if block.type == "resource_link"]
    assert str(link.uri) == f"artifact://{made['artifact_id']}"
    [content] = (await agent.client.read_resource(str(link.uri))).contents
    assert content.model_dump()["text"] == text
    reference = ResourceTemplateReference(type="ref/resource", uri="artifact://{artifact_id}")
    for start, expected in (
        ("art-", [made["artifact_id"]]),
        ("x", []),
        ("", [made["artifact_id"]]),
    ):
        answer = await agent.client.complete(reference, {"name": "artifact_id", "value": start})
        assert answer.completion.values == expected
    with pytest.raises(MCPError, match="query_artifacts"):
        await agent.client.read_resource("artifact://art-0000000000000000")
    huge = await agent.ask("store_artifact", name="huge", content="x" * 800_000)
    with pytest.raises(MCPError, match="get_artifact"):
        await agent.client.read_resource(f"artifact://{huge['artifact_id']}")


async def test_ls_11_each_filter_of_a_query_narrows_it(agent: Agent) -> None:
    await agent.ask("create_session", session_id="other")
    before = datetime.now().astimezone() - timedelta(seconds=1)
    for name, more in (
        ("a.csv", {"tags": ["raw", "eu"]}),
        ("b.csv", {"tags": ["raw"], "content": "x" * 100}),
        ("c.txt", {"type": "tool_result"}),
        ("d.csv", {"session_id": "other"}),
    ):
        await agent.ask("store_artifact", **{"name": name, "content": "x", **more})
    day = timedelta(days=1)
    for query, expected in (
        ({}, ["c.txt", "b.csv", "a.csv"]),
        ({"session_id": "*"}, ["d.csv", "c.txt", "b.csv", "a.csv"]),
        ({"session_id": "other"}, ["d.csv"]),
        ({"type": "tool_result"}, ["c.txt"]),
        ({"tags": ["eu", "raw"]}, ["a.csv"]),
        ({"name": "*.csv"}, ["b.csv", "a.csv"]),
        ({"min_size": 100}, ["b.csv"]),
        ({"max_size": 99}, ["c.txt", "a.csv"]),
        ({"since": before.isoformat()}, ["c.txt", "b.csv", "a.csv"]),
        ({"since": before.timestamp()}, ["c.txt", "b.csv", "a.csv"]),
        ({"since": (before + day).isoformat()}, []),
        ({"until": before.timestamp()}, []),
        ({"until": str((before + day).timestamp())}, ["c.txt", "b.csv", "a.csv"]),
        ({"since": "2020-01-01", "until": "2020-01-02T00:00:00Z"}, []),
        ({"execution_id": "none"}, []),
        ({"limit": 1, "offset": 1}, ["b.csv"]),
    ):
        assert await names(agent, **query) == expected, query
    page = await agent.call("query_artifacts", limit=2)
    assert (page.data["total"], page.data["next_offset"]) == (3, 2)
    assert page.text.splitlines()[-1] == "[next: offset=2]"


async def test_large_labels_do_not_make_an_answer_too_large(agent: Agent) -> None:
    labels = {"tags": [f"{i:02}" + "é" * 62 for i in range(50)], "metadata": {"x": "y" * 15_000}}
    for i in range(40):
        await agent.ask("store_artifact", name=f"{i}", content="x", **labels)
    seen: list[str] = []
    offset = 0
    while offset >= 0:
        page = await agent.ask("query_artifacts", limit=1000, offset=offset)
        seen += [artifact["name"] for artifact in page["artifacts"]]
        offset = page["next_offset"]
    assert seen == [f"{i}" for i in reversed(range(40))]


async def test_what_can_not_be_is_refused_with_what_to_do(agent: Agent, place: Place) -> None:
    (place.workspace / "link").symlink_to("/etc/passwd")
    made = await agent.ask("store_artifact", name="mine", content="x")
    await agent.ask("create_session", session_id="other")
    cases: list[tuple[str, dict[str, object]]] = [
        ("store_artifact", {"name": "a"}),
        ("store_artifact", {"name": "a", "content": "x", "path": "y"}),
        ("store_artifact", {"name": "a", "content": "?", "encoding": "base64"}),
        ("store_artifact", {"name": "", "content": "x"}),
        ("store_artifact", {"name": "a\nb", "content": "x"}),
        ("store_artifact", {"name": "a", "content": "x", "type": "No Type"}),
        ("store_artifact", {"name": "a", "content": "x", "tags": ["x" * 65]}),
        ("store_artifact", {"name": "a", "content": "x", "session_id": "none"}),
        ("store_artifact", {"name": "a", "path": "link"}),
        ("store_artifact", {"name": "a", "path": "../x"}),
        ("get_artifact", {"artifact_id": "none"}),
        ("get_artifact", {"artifact_id": "mine", "session_id": "other"}),
        ("get_artifact", {"artifact_id": made["artifact_id"], "session_id": "other"}),
        ("delete_artifact", {"artifact_id": made["artifact_id"], "session_id": "other"}),
        ("delete_artifact", {"artifact_id": "mine"}),
        ("query_artifacts", {"since": "yesterday"}),
        ("query_artifacts", {"since": 1e300}),
        ("query_artifacts", {"until": "nan"}),
        ("query_artifacts", {"session_id": "none"}),
        ("query_artifacts", {"limit": 0}),
    ]
    await check_refusals(agent, cases)
    assert await names(agent, session_id="*") == ["mine"]
    assert "Traceback" not in place.log.read_text()


async def test_long_output_and_images_are_artifacts_of_their_execution(agent: Agent) -> None:
    done = await agent.run(
        "from IPython.display import SVG, display\n"
        "display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"><g/></svg>'))\n"
        "print('x' * 300_000)"
    )
    found: list[str] = []
    while len(found) < 3:  # they come after the answer
        found = await names(agent, execution_id=done["execution_id"])
    assert sorted(found) == ["default-1-1.png", "default-1-1.svg", "default-1-output.txt"]
    page = await agent.ask("get_artifact", artifact_id="default-1-output.txt", offset=299_000)
    assert page["text"].strip("\n") == "x" * len(page["text"].strip("\n"))
    assert page["total"] >= 300_001


async def test_ls_7_damage_is_said_and_counts_outlive_a_killed_server(place: Place) -> None:
    text = "the same content\n" * 1000
    async with stdio_agent(place, *FLAGS) as agent:
        one = await agent.ask("store_artifact", name="one", content=text)
        two = await agent.ask("store_artifact", name="two", content=text)
        place.server().send_signal(signal.SIGKILL)
    async with stdio_agent(place, *FLAGS) as agent:
        await agent.ask("delete_artifact", artifact_id=one["artifact_id"])
        read = await agent.ask("get_artifact", artifact_id=two["artifact_id"], limit=40_000)
        assert read["text"] == text
        [blob] = (path for path in (place.state / "blobs").rglob("*") if path.is_file())
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 4
        blob.write_bytes(data)
        damaged = await agent.call("get_artifact", artifact_id=two["artifact_id"])
        assert damaged.data["error"]["code"] == "integrity"
        assert f"artifact {two['artifact_id']} ('two') is damaged" in damaged.text
