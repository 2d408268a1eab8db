"""Bad input gets a clear answer, changes nothing, and leaves the server as usable as before."""

import itertools
import json
import os
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from tests.faults.matrix import fault

from .harness import Agent, Place, RawServer

SHARES_A_SERVER = True
HUGE = 10 << 20
BAD_IDS = [
    "a" * 10_000,
    "a" * 65,
    "../x",
    "a/b",
    "a\0b",
    "\N{PARTY POPPER}",
    ".",
    "..",
    "a b",
    "line\n",
    "-rf",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
]


@pytest.fixture
async def guarded(agent: Agent, place: Place) -> AsyncIterator[Agent]:
    """A client whose variables, sessions and files must be the same when a test is over."""
    await agent.ask("create_session", session_id="other", description="not to be touched")
    kept = "kept = ['variables', 'stay']"
    assert (await agent.run(kept))["status"] == "completed"
    before = await sessions_of(agent), files_of(place)
    yield agent
    assert await agent.value("1+1") == "2"
    assert await agent.value("kept") == "['variables', 'stay']"
    assert (await sessions_of(agent), files_of(place)) == before
    assert "Traceback" not in place.log.read_text()


async def check_refusals(
    agent: Agent, cases: Iterable[tuple[str, dict[str, Any]]], *words: str
) -> None:
    """Make calls that must be refused, each briefly and with `words`; report all that are not."""
    problems = []
    for tool, arguments in cases:
        answer = await agent.call(tool, **arguments)
        shown = f"{tool} {str(arguments)[:100]}"
        if not answer.is_error:
            problems.append(f"{shown} was accepted: {answer.text[:200]}")
        elif len(answer.text) > 1000 or "validation error" in answer.text:
            problems.append(f"{shown}: no clear text: {answer.text[:300]}")
        elif missing := [word for word in words if word not in answer.text]:
            problems.append(f"{shown}: {missing} not in {answer.text[:300]}")
    assert not problems, "\n".join(problems)


async def sessions_of(agent: Agent) -> dict[str, tuple[str, str, bool]]:
    """Return what bad input must not change of the sessions."""
    listed = await agent.ask("list_sessions")
    return {
        name: (item["description"], item["kernel"], item["current"])
        for name, item in listed["sessions"].items()
    }


def files_of(place: Place) -> list[str]:
    """Return the files around the server that bad input must not change."""
    return sorted(
        str(path.relative_to(place.root))
        for path in place.root.rglob("*")
        if place.state not in path.parents and "config" not in path.parts
    )


@fault("A1")
async def test_an_unknown_session_is_refused_and_those_there_are_get_named(guarded: Agent) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("run_python_code", {"code": "1"}),
        ("switch_session", {}),
        ("delete_session", {}),
        ("restart_kernel", {}),
        ("interrupt_execution", {}),
        ("list_packages", {}),
        ("list_variables", {}),
        ("get_kernel_health", {}),
        ("check_kernel_responsiveness", {}),
        ("install_dependencies", {"packages": ["packaging"]}),
        ("run_script", {"path": "x"}),
    ]
    cases = [
        (tool, {"session_id": session_id, **arguments})
        for tool, arguments in calls
        for session_id in ("nowhere", "Other", *BAD_IDS)
    ]
    # Where an id must be given, an empty one is none; elsewhere it means that none was given.
    cases += [(tool, {"session_id": ""}) for tool in ("switch_session", "delete_session")]
    await check_refusals(guarded, cases, "no session", "default, other", "create_session")


@fault("A1")
async def test_an_id_that_can_not_be_one_is_refused_with_what_could_be(guarded: Agent) -> None:
    cases = [("create_session", {"session_id": session_id}) for session_id in BAD_IDS]
    await check_refusals(guarded, cases, "letters, digits")


async def test_an_empty_id_makes_one(agent: Agent) -> None:
    made = await agent.ask("create_session", session_id="")
    assert made["session_id"]
    assert await agent.value("1+1", made["session_id"]) == "2"


@fault("A2")
async def test_an_id_that_is_taken_is_refused_and_the_session_stays(guarded: Agent) -> None:
    await guarded.run("mine = 1", "other")
    text = await guarded.refused("create_session", session_id="other", description="usurper")
    assert "exists" in text
    assert "reuse" in text
    again = await guarded.ask("create_session", session_id="other", if_exists="reuse")
    assert again["status"] == "existing"
    assert await guarded.value("mine", "other") == "1"


async def test_the_default_session_can_not_be_deleted(guarded: Agent) -> None:
    text = await guarded.refused("delete_session", session_id="default")
    assert "default" in text
    assert "restart_kernel" in text


@fault("A2")
async def test_deleting_twice_is_refused_the_second_time(guarded: Agent) -> None:
    await guarded.ask("create_session", session_id="gone")
    await guarded.ask("delete_session", session_id="gone")
    for tool in ("delete_session", "switch_session", "restart_kernel"):
        assert "no session 'gone'" in await guarded.refused(tool, session_id="gone")


@fault("A3")
async def test_empty_code_runs_and_does_nothing(guarded: Agent) -> None:
    for code in ("", "\n", "# a comment"):
        done = await guarded.run(code)
        assert (done["status"], done["stdout"], done["results"]) == ("completed", "", [])


ODD_CODE = {
    "x = 1\r\nif x:\r\n\tprint(x)\r\n": "completed",
    "\ufeffprint(1)": "failed",  # as in Jupyter
    "def f():\n\tif True:\n\t\treturn 1\nprint(f())": "completed",
    "print('\N{PARTY POPPER}\u200b')  # \u2028": "completed",
    "x = 'a\0b'": "failed",
}


@fault("A3")
async def test_code_with_odd_characters_runs_or_its_error_is_a_result(guarded: Agent) -> None:
    for code, status in ODD_CODE.items():
        done = await guarded.run(code)
        assert done["status"] == status, (code, done)


@fault("A3")
async def test_code_of_ten_megabytes_is_refused_with_its_size_and_the_limit(guarded: Agent) -> None:
    text = await guarded.refused("run_python_code", code="#" * HUGE)
    assert str(HUGE) in text
    assert "limit" in text
    assert len(text) < 1000


@fault("A3")
async def test_a_syntax_error_is_a_result_that_points_at_the_place(guarded: Agent) -> None:
    done = await guarded.run("x = 1\nif x\n    pass")
    assert done["status"] == "failed"
    assert done["error"]["type"] == "SyntaxError"
    assert "if x" in done["error"]["traceback"]
    assert "\x1b" not in done["error"]["traceback"]


@fault("A4")
async def test_an_amount_of_time_that_is_none_is_refused_and_nothing_runs(guarded: Agent) -> None:
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("run_python_code", "timeout", {"code": "ran = True"}),
        ("run_python_code", "wait", {"code": "ran = True"}),
        ("get_execution", "wait", {"execution_id": "none"}),
        ("install_dependencies", "timeout", {"packages": ["packaging"]}),
        ("run_script", "timeout", {"path": "none"}),
    ]
    for tool, parameter, arguments in calls:
        amounts: list[Any] = [-1, "x", [], "NaN", "Infinity", "-Infinity"]
        cases = [(tool, {**arguments, parameter: amount}) for amount in amounts]
        await check_refusals(guarded, cases, f"{parameter}: ")
    assert await guarded.value("'ran' in globals()") == "False"


@fault("A4")
def test_a_number_that_json_does_not_have_is_refused(place: Place) -> None:
    with RawServer(place) as server:
        for number, (parameter, spelling) in enumerate(
            itertools.product(("timeout", "wait"), ("NaN", "Infinity", "-Infinity", "1e999")), 700
        ):
            arguments = f'{{"code": "ran = True", "{parameter}": {spelling}}}'
            server.send_line(
                f'{{"jsonrpc": "2.0", "id": {number}, "method": "tools/call", '
                f'"params": {{"name": "run_python_code", "arguments": {arguments}}}}}'
            )
            answer = server.answer(number)
            assert "error" in answer or answer["result"]["isError"], (spelling, answer)
        assert server.tool("run_python_code", code="'ran' in globals()")["results"] == ["False"]


PACKAGES = [
    ["; rm -rf"],
    ["packaging; rm -rf /"],
    ["--index-url=x"],
    ["--index-url", "x"],
    ["-e ."],
    ["-r requirements.txt"],
    ["."],
    ["./folder"],
    ["/absolute/path.whl"],
    ["packaging @ file:///tmp/x"],
    ["https://example.invalid/x.whl"],
    ["git+https://example.invalid/x"],
    ["pack aging"],
    ["packaging\n--index-url=x"],
    ["$(touch pwned)"],
    ["`touch pwned`"],
    ["a" * 10_000],
    [""],
    [],
    ["packaging", "--pre"],
    [f"package-{number}" for number in range(1000)],
]


@fault("A5")
async def test_packages_that_are_no_plain_requirements_are_refused(guarded: Agent) -> None:
    cases = [("install_dependencies", {"packages": packages}) for packages in PACKAGES]
    await check_refusals(guarded, cases)


@fault("A5")
async def test_a_package_that_does_not_exist_is_a_result_and_changes_nothing(
    guarded: Agent,
) -> None:
    done = await guarded.ask("install_dependencies", packages=["kernelry-no-such-package-xyzzy"])
    assert done["returncode"] != 0
    assert done["installed"] == []
    assert done["stderr"]


@fault("A5")
async def test_packages_that_exclude_each_other_are_the_resolvers_result(guarded: Agent) -> None:
    done = await guarded.ask("install_dependencies", packages=["six==1.15.0", "six==1.16.0"])
    assert (done["returncode"] != 0, done["installed"]) == (True, [])
    assert "six" in done["stderr"]


SCRIPT_NAMES = [
    "../../x",
    "../x",
    "/tmp/absolute",
    "sub/folder",
    "a" * 300,
    "",
    ".",
    "..",
    ".py",
    ".hidden",
    "nul\0byte",
    "line\n",
    "back\\slash",
    "two words",
    "\N{PARTY POPPER}",
    "con",
]


@fault("A6")
async def test_a_script_name_that_is_no_plain_file_name_is_refused(guarded: Agent) -> None:
    cases = [("save_script", {"name": name, "content": "print('never')"}) for name in SCRIPT_NAMES]
    await check_refusals(guarded, cases, "script name")


async def test_a_script_that_is_not_in_the_workspace_is_not_run(guarded: Agent) -> None:
    paths = ["../../x", "../server.log", "/etc/hostname", "a" * 300, "", ".", "scripts", "a\0b"]
    await check_refusals(guarded, [("run_script", {"path": path}) for path in paths])


@fault("A6")
async def test_a_link_is_neither_overwritten_nor_followed_out_of_the_workspace(
    agent: Agent, place: Place
) -> None:
    outside = place.root / "outside.py"
    outside.write_text("print('outside')")
    scripts = place.workspace / "scripts"
    (scripts / "link.py").symlink_to(outside)
    (scripts / "folder").symlink_to(place.root)
    for overwrite in (False, True):
        arguments = {"name": "link", "content": "print('new')", "overwrite": overwrite}
        assert "link" in await agent.refused("save_script", **arguments)
    assert outside.read_text() == "print('outside')"
    for path in ("link", "scripts/link.py", "scripts/folder/outside.py"):
        await agent.refused("run_script", path=path)
    assert await agent.value("1+1") == "2"


@fault("A6")
async def test_a_script_is_not_overwritten_unless_asked_for(agent: Agent, place: Place) -> None:
    await agent.ask("save_script", name="mine", content="print(1)")
    text = await agent.refused("save_script", name="mine.py", content="print(2)")
    assert "overwrite" in text
    assert (place.workspace / "scripts" / "mine.py").read_text() == "print(1)"
    await agent.ask("save_script", name="mine", content="print(3)", overwrite=True)
    assert (await agent.ask("run_script", path="mine"))["stdout"] == "3\n"


MISFITS: list[tuple[str, dict[str, Any], str]] = [
    ("run_python_code", {}, "code"),
    ("run_python_code", {"code": 5}, "code"),
    ("run_python_code", {"code": None}, "code"),
    ("run_python_code", {"code": "1", "sesion_id": "default"}, "sesion_id"),
    ("get_execution", {"execution_id": "nothing"}, "nothing"),
    ("get_execution", {"execution_id": "x" * 10_000}, "xxx"),
    ("get_execution", {"execution_id": "x", "offset": -1}, "offset"),
    ("get_execution", {"execution_id": "x", "limit": 0}, "limit"),
    ("interrupt_execution", {"execution_id": "nothing"}, "nothing"),
    ("list_sessions", {"status": "weird"}, "status"),
    ("list_sessions", {"limit": 0}, "limit"),
    ("create_session", {"session_id": "n", "if_exists": "maybe"}, "if_exists"),
    ("create_session", {"session_id": "n", "tags": "not a list"}, "tags"),
    ("create_session", {"session_id": "n", "tags": [""]}, "tags"),
    ("create_session", {"session_id": "n", "description": "d" * 100_000}, "description"),
    ("create_session", {"session_id": "n", "metadata": {"m": "d" * 100_000}}, "metadata"),
    ("restart_kernel", {"preserve_state": "maybe"}, "preserve_state"),
    ("create_session", {"session_id": "n", "metadata": [[[[[[]]]]]]}, "metadata"),
    ("run_python_code", {"code": {"code": {"code": "1"}}}, "code"),
]


@fault("A7")
async def test_an_argument_that_does_not_fit_is_named(guarded: Agent) -> None:
    for tool, arguments, named in MISFITS:
        await check_refusals(guarded, [(tool, arguments)], named)


@fault("A3")
def test_lone_surrogates_on_the_wire_get_an_error_with_the_requests_id(place: Place) -> None:
    with RawServer(place) as server:
        server.tool("run_python_code", code="kept = 1")
        for number, broken in enumerate(("\\ud800", "x = '\\udfff'", "\\udc00\\ud800"), 500):
            server.send_line(
                f'{{"jsonrpc": "2.0", "id": {number}, "method": "tools/call", "params": '
                f'{{"name": "run_python_code", "arguments": {{"code": "{broken}"}}}}}}'
            )
            answer = server.answer(number)
            assert "surrogate" in answer["error"]["message"], answer
        assert server.tool("run_python_code", code="kept + 1")["results"] == ["2"]
        escaped = server.tool("run_python_code", code=r"len('\ud800'), '\ud800'")
        assert escaped["status"] == "completed", escaped
        assert server.tool("run_python_code", code="kept + 1")["results"] == ["2"]


@fault("C1", "C3")
def test_lines_that_are_no_messages_are_answered_and_the_server_goes_on(place: Place) -> None:
    with RawServer(place) as server:
        server.send_line("this is no JSON")
        assert server.answer(None)["error"]["code"] == -32700
        server.send_line("[" * 100_000)
        assert server.answer(None)["error"]["code"] == -32700
        server.send_line("[1, 2]")
        assert server.answer(None)["error"]["code"] == -32600
        server.send_line('{"id": 900, "method": "tools/list"}')
        assert server.answer(900)["error"]["code"] == -32600
        server.send_line(json.dumps({"jsonrpc": "2.0", "id": 901, "method": "no/such"}))
        assert server.answer(901)["error"]["code"] == -32601
        server.send_line("")
        server.send_line("x" * (40 << 20))  # more than a line may have
        assert server.answer(None)["error"]["code"] == -32600
        assert server.tool("run_python_code", code="1+1")["results"] == ["2"]


@fault("C2")
def test_bytes_that_are_no_utf_8_are_answered_and_the_server_goes_on(place: Place) -> None:
    with RawServer(place) as server:
        assert server.process.stdin is not None
        server.process.stdin.flush()
        os.write(server.process.stdin.fileno(), b'{"jsonrpc": "2.0", "id": "\xff\xfe"}\n')
        assert server.answer(None)["error"]["code"] in (-32700, -32600)
        assert server.tool("run_python_code", code="1+1")["results"] == ["2"]
