"""No advice names a tool that is not on offer."""

import pytest

from kernelry_mcp.errors import without_ways

ABSENT = {"resume_session", "interrupt_execution", "list_files"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("It runs Python code. Wait, or interrupt_execution.", "It runs Python code."),
        ("session 's' is failed; resume_session brings it back", "session 's' is failed"),
        ("there is no 'x' in the workspace. list_files shows what there is.",
         "there is no 'x' in the workspace."),
        ("It waits. interrupt_execution may end it; restart_kernel does.",
         "It waits. restart_kernel does."),
        ("Wait for it.", "Wait for it."),
        ("call resume_session", "call resume_session"),
        ("the file 'my_list_files.txt' is there.", "the file 'my_list_files.txt' is there."),
    ],
)  # fmt: skip
def test_an_advice_keeps_the_ways_that_there_are(text: str, said: str) -> None:
    assert without_ways(text, ABSENT) == said
