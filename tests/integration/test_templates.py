"""Sessions made from presets."""

from dataclasses import replace

import pytest

from kernelry import Config, Sessions, SessionSpec
from kernelry.errors import InvalidArgumentError
from kernelry.templates import Template
from tests.faults.kernels import printed, run, value

TEMPLATES = {
    "counting": Template(
        description="Counts",
        tags=("numbers", "small"),
        metadata={"team": "a", "level": 1},
        limits={"memory": 2e9},
        startup="import math\ncounter = 1",
    ),
    "broken": Template(startup="1 / 0"),
    "greedy": Template(packages=("no-such-package-of-kernelry",)),
}


@pytest.fixture
def config(config: Config) -> Config:
    return replace(config, templates=TEMPLATES)


async def test_ls_16_a_session_has_what_its_template_says_and_what_the_caller_says_first(
    sessions: Sessions,
) -> None:
    spec = SessionSpec(
        id="s", template="counting", tags=("mine",), metadata={"level": 2}, limits={"memory": 3e9}
    )
    session = await sessions.create(spec)
    record = session.record
    assert (record.description, record.template) == ("Counts", "counting")
    assert record.tags == ("mine", "numbers", "small")
    assert record.metadata == {"team": "a", "level": 2}
    assert record.limits == {"memory": 2e9}
    assert await value(sessions, session, "math.floor(counter + 0.5)") == "1"


async def test_each_kernel_of_the_session_runs_the_start_up_code_first(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="s", template="counting"))
    await run(sessions, session, "counter += 1")
    await session.restart()
    assert await printed(sessions, session, "print(counter)") == "1\n"
    codes = [execution.code for execution in await sessions.history.executions("s")]
    assert codes.count(TEMPLATES["counting"].startup) == 2
    assert await printed(sessions, session, "print(counter)") == "1\n"


async def test_a_template_that_is_not_there_is_an_error_that_lists_those_that_are(
    sessions: Sessions,
) -> None:
    with pytest.raises(InvalidArgumentError, match="There are: broken, counting, greedy"):
        await sessions.create(SessionSpec(id="s", template="other"))


@pytest.mark.parametrize(
    ("template", "why"),
    [("broken", "ended with ZeroDivisionError"), ("greedy", "could not be installed")],
)
async def test_a_session_that_can_not_be_furnished_is_not_there(
    sessions: Sessions, template: str, why: str
) -> None:
    with pytest.raises(Exception, match=why):
        await sessions.create(SessionSpec(id="s", template=template))
    assert [session.id for session in sessions.list()] == ["default"]
    await sessions.create(SessionSpec(id="s"))
