"""A story: what an agent that knows only the tools does, with as many calls as it should take."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.acceptance.harness import Agent, Answer


class Story:
    """The calls of a story, each with what its text must tell the agent.

    Args:
        agent: The agent.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        #: how many calls it took
        self.calls = 0

    async def tells(self, *told: str, tool: str, **arguments: Any) -> Answer:
        """Call a tool that must work, and whose text must have these parts in this order."""
        self.calls += 1
        answer = await self._agent.call(tool, **arguments)
        assert not answer.is_error, answer.text
        at = 0
        for part in told:
            at = answer.text.find(part, at)
            assert at >= 0, f"{tool} does not say {part!r} (in this order): {answer.text}"
        return answer

    async def runs(self, code: str, *told: str, **arguments: Any) -> Answer:
        """Run code whose answer must have these parts."""
        return await self.tells(*told, tool="run_python_code", code=code, **arguments)

    async def is_refused(self, *told: str, tool: str, **arguments: Any) -> None:
        """Call a tool that must refuse, and say this."""
        self.calls += 1
        said = await self._agent.refused(tool, **arguments)
        assert all(part in said for part in told), said


@contextmanager
def told_in(calls: int, agent: Agent) -> Iterator[Story]:
    """Tell a story that takes just so many calls."""
    story = Story(agent)
    yield story
    assert story.calls == calls
