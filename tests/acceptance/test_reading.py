"""What an agent reads of an execution: the code, the part that it wants, what is new since then."""

import anyio
import pytest

from .harness import HANG, Agent, Answer, Place

SHARES_A_SERVER = True
FLAGS = ("--toolsets", "all")
LINES = 5_000_000
GATE = "import os, time\nwhile not os.path.exists('{}'): time.sleep(0.01)\n"


async def gone_on(agent: Agent, place: Place, begun: Answer, gate: str) -> Answer:
    """Let a running cell through its gate; return what is new to the reader when it has ended."""
    assert begun.data["status"] == "running"
    (place.workspace / gate).touch()
    named, since = begun.data["execution_id"], begun.data["since"]
    return await agent.call("get_execution", execution_id=named, since=since, wait=HANG)


@pytest.fixture
async def counted(agent: Agent) -> str:
    """An execution that printed its line numbers."""
    done = await agent.run("for n in range(1, 3001): print('line', n)")
    return str(done["execution_id"])


async def test_an_id_is_short_enough_to_be_repeated(agent: Agent) -> None:
    ids = {(await agent.run("1"))["execution_id"] for _ in range(5)}
    assert len(ids) == 5
    assert {len(one) for one in ids} == {8}


async def test_an_execution_is_read_with_its_code(agent: Agent) -> None:
    done = await agent.run("total = 6 * 7\nprint('total', total)")
    read = await agent.call("get_execution", execution_id=done["execution_id"])
    assert read.text.splitlines()[1:] == ["> total = 6 * 7", "> print('total', total)", "total 42"]
    assert read.data["code"] == "total = 6 * 7\nprint('total', total)"
    for answer in (done, read.data):
        assert (answer["total_chars"], answer["total_lines"]) == (9, 1)


async def test_the_last_lines_are_read(agent: Agent, counted: str) -> None:
    read = await agent.call("get_execution", execution_id=counted, options={"tail": 2})
    assert read.text.splitlines()[1:] == [
        "[characters 28873 to 28893 of 28893, from line 2999 of 3000; the end]",
        "line 2999",
        "line 3000",
    ]


async def test_a_line_is_read_by_its_number(agent: Agent, counted: str) -> None:
    read = await agent.call("get_execution", execution_id=counted, line=1500, limit=20)
    assert read.text.splitlines()[2] == "line 1500"
    assert "from line 1500 of 3000" in read.text
    assert (read.data["line"], read.data["total_lines"]) == (1500, 3000)
    beyond = await agent.call("get_execution", execution_id=counted, line=4000)
    assert not beyond.is_error
    assert beyond.text.endswith("[there are only 3000 lines]")


async def test_lines_with_a_text_are_found_with_their_numbers(agent: Agent, counted: str) -> None:
    read = await agent.call("get_execution", execution_id=counted, search="line 299")
    lines = read.text.splitlines()
    assert lines[1] == "[11 of 3000 lines have 'line 299' in them]"
    assert lines[2:4] == ["299: line 299", "2990: line 2990"]
    none = await agent.call("get_execution", execution_id=counted, search="nowhere")
    assert "[0 of 3000 lines" in none.text
    many = await agent.call("get_execution", execution_id=counted, search="line")
    assert "[3000 of 3000 lines have 'line' in them; 50 of them; line=51 goes on]" in many.text
    more = await agent.call("get_execution", execution_id=counted, search="line", line=51)
    assert more.text.splitlines()[2] == "51: line 51"


async def test_two_parts_at_once_are_refused(agent: Agent, counted: str) -> None:
    said = await agent.refused("get_execution", execution_id=counted, tail=1, line=1)
    assert "tail and line are looks at different parts" in said
    said = await agent.refused("get_execution", execution_id=counted, since="yesterday")
    assert "is of no answer" in said


async def test_one_line_of_five_million_takes_one_call(agent: Agent) -> None:
    code = f"import sys\n_ = sys.stdout.write(''.join(f'{{n}}\\n' for n in range(1, {LINES} + 1)))"
    done = await agent.run(code, wait=HANG)
    assert done["status"] == "completed"
    read = await agent.call(
        "get_execution", execution_id=done["execution_id"], line=LINES // 2, limit=8
    )
    assert read.text.splitlines()[2] == str(LINES // 2)
    assert f"of {LINES}" in read.text


async def test_a_running_cell_is_read_on_from_where_the_last_look_ended(
    agent: Agent, place: Place
) -> None:
    code = "print('first')\n" + GATE.format("one") + "print('second')\n" + GATE.format("two")
    begun = await agent.call("run_python_code", code=code, wait=0.5)
    assert "first" in begun.text
    named = begun.data["execution_id"]
    assert f'since="{begun.data["since"]}"' in begun.text
    (place.workspace / "one").touch()
    since = begun.data["since"]
    with anyio.fail_after(HANG):
        while True:
            look = await agent.call("get_execution", execution_id=named, since=since)
            if "second" in look.text:
                break
            assert "[nothing new was printed]" in look.text
            since = look.data["since"]
    assert "first" not in look.text
    ended = await gone_on(agent, place, look, "two")
    assert ended.data["status"] == "completed"
    assert "second" not in ended.text


async def test_a_bar_that_moved_is_shown_again(agent: Agent, place: Place) -> None:
    code = "print('10 %', end='', flush=True)\n" + GATE.format("bar") + "print('\\r20 %')"
    begun = await agent.call("run_python_code", code=code, wait=0.5)
    ended = await gone_on(agent, place, begun, "bar")
    assert "20 %" in ended.text


async def test_only_new_pictures_are_shown_again(agent: Agent, place: Place) -> None:
    picture = "from IPython.display import display\nfrom PIL import Image\n"
    show = "display(Image.new('RGB', (9, 9)))\n"
    code = picture + show + GATE.format("next") + show
    begun = await agent.call("run_python_code", code=code, wait=2)
    assert [block.type for block in begun.content].count("image") == 1
    ended = await gone_on(agent, place, begun, "next")
    assert [block.type for block in ended.content].count("image") == 1


async def test_what_a_restart_or_an_interrupt_ended_is_told_with_its_last_lines(
    agent: Agent,
) -> None:
    loop = "import time\nfor n in range(10**6):\n    print('step', n); time.sleep(0.01)"
    begun = await agent.run(loop, wait=0.5)
    stopped = await agent.call("interrupt_execution")
    assert f"execution {begun['execution_id']}" in stopped.text
    assert "> import time" in stopped.text
    assert "step" in stopped.text
    assert (stopped.data["status"], "step" in stopped.data["output"]) == ("interrupted", True)
    begun = await agent.run(loop, wait=0.5)
    queued = await agent.run("'never'", wait=0)
    restarted = await agent.call("restart_kernel")
    assert "It ended what ran or was queued:" in restarted.text
    assert f"execution {begun['execution_id']}" in restarted.text
    assert "step" in restarted.text
    assert f"[cancelled, it never ran; session default; execution {queued['execution_id']}]" in (
        restarted.text
    )
    ended = {one["execution_id"]: one for one in restarted.data["ended"]}
    assert ended[begun["execution_id"]]["status"] == "died"
    assert "step" in ended[begun["execution_id"]]["output"]
    assert ended[queued["execution_id"]]["status"] == "cancelled"


DEAF = """import time
heard = 0
while True:
    try:
        time.sleep(4)  # longer than an interrupt waits by itself
        if heard: break
    except KeyboardInterrupt: heard += 1
"""


async def test_an_interrupt_waits_for_code_that_does_not_heed_it(agent: Agent) -> None:
    begun = await agent.call("run_python_code", code=DEAF, wait=1)
    assert begun.data["status"] == "running"
    stopped = await agent.call("interrupt_execution", wait=HANG)
    assert "had no effect" in stopped.text
    assert "it has ended by itself since" in stopped.text
    assert "force=true" not in stopped.text  # there is nothing left that it could end
    assert (stopped.data["step"], stopped.data["interrupted"]) == ("no_effect", True)
    assert stopped.data["status"] not in ("running", "queued")
    assert f"{stopped.data['status']} after" in stopped.text


async def test_an_answer_to_a_question_shows_what_came_of_it(agent: Agent) -> None:
    await agent.ask("create_session", session_id="asking", options={"stdin": True})
    code = "name = input('name? ')\nprint('hello', name)"
    asked = await agent.run(code, "asking", wait=HANG)
    assert asked["status"] == "waiting_input"
    answered = await agent.call(
        "send_input", execution_id=asked["execution_id"], text="Ada", wait=HANG
    )
    assert "hello Ada" in answered.text
    assert answered.data["status"] == "completed"
    assert "hello Ada" in answered.data["output"]


async def test_a_refused_question_names_a_way_that_is_on_offer(agent: Agent) -> None:
    done = await agent.call("run_python_code", code="input('name? ')")
    assert "create_session(options={'stdin': true})" in done.text
    assert "send_input" in done.text


async def test_a_picture_that_was_drawn_anew_is_shown_though_there_are_no_more_of_them(
    agent: Agent, place: Place
) -> None:
    code = (
        "from IPython.display import clear_output, display\nfrom PIL import Image\n"
        "display(Image.new('RGB', (9, 9)))\n"
        + GATE.format("redraw")
        + "clear_output(wait=True)\ndisplay(Image.new('RGB', (8, 8), 'red'))"
    )
    begun = await agent.call("run_python_code", code=code, wait=2)
    ended = await gone_on(agent, place, begun, "redraw")
    assert [block.type for block in ended.content].count("image") == 1
    assert "has changed" in ended.text


async def test_what_grows_before_a_display_is_not_passed_over(agent: Agent, place: Place) -> None:
    """Long text is spilled to a file, and has its place before displays that came later."""
    code = (
        "from IPython.display import display\nprint('x' * 150_000)\ndisplay('shown')\n"
        + GATE.format("grow")
        + "print('grown', 'y' * 300)"
    )
    begun = await agent.call("run_python_code", code=code, wait=2)
    ended = await gone_on(agent, place, begun, "grow")
    assert "grown" in ended.text
