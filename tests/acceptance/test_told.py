"""What an agent reads: the text of an answer says what was, and what helps."""

from .harness import Agent

SHARES_A_SERVER = True


async def read(agent: Agent, code: str, **more: object) -> list[str]:
    """Run code and return the lines that an agent reads below the status."""
    answer = await agent.call("run_python_code", code=code, **more)
    return answer.text.splitlines()[1:]


async def test_a_crash_of_native_code_is_told_with_the_lines_that_it_came_from(
    agent: Agent,
) -> None:
    code = "import ctypes\ndef f():\n    ctypes.string_at(0)\nf()"
    lines = await read(agent, code)
    assert lines[0] == "KernelDied: it ended by itself: killed by SIGSEGV"
    assert lines[1] == "Segmentation fault"
    assert lines[3:5] == ["  Cell, line 3 in f", "  Cell, line 4 in <module>"]
    assert "restart_kernel" in lines[5]
    assert not [line for line in lines if "IPython" in line or "kernelry" in line]


async def test_a_kernel_that_ends_without_a_crash_is_told_without_the_lines_of_an_earlier_one(
    agent: Agent,
) -> None:
    """One file has the stacks of all that a session's kernels told."""
    await read(agent, "import ctypes; ctypes.string_at(0)")
    await agent.ask("restart_kernel")
    lines = await read(agent, "import os; os._exit(3)")
    assert lines[0] == "KernelDied: it ended by itself: exit code 3"
    assert "Cell" not in "".join(lines)


async def test_a_timeout_is_told_with_the_last_lines_and_no_frame_of_ours(agent: Agent) -> None:
    code = "import time\nfor n in range(10):\n    print('step', n, end='')\ntime.sleep(30)"
    lines = await read(agent, code, timeout=1)
    assert lines[0] == "".join(f"step {n}" for n in range(10))
    assert lines[1].startswith("-----")
    assert "----> 4 time.sleep(30)" in lines
    assert lines[-1] == "KeyboardInterrupt: stopped by its timeout of 1 s; variables stay"
    assert not [line for line in lines if "kernelry" in line]
