"""Sessions against a model of them: whatever is done in whatever order, both agree."""

import ast
import asyncio
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kernelry import Config, ExecutionStatus, KernelState, Sessions, SessionSpec
from kernelry.errors import KernelDeadError, SessionExistsError, SessionNotFoundError
from kernelry.models.executions import Execution
from kernelry.models.reports import InterruptStep
from kernelry.output.fold import stream_text

from .kernels import HANG, pid_of, run, started, until
from .matrix import fault

SOAK = os.environ.get("KERNELRYTEST_SOAK") == "1"
NAMES = st.sampled_from(["a", "b", "c"])
VARIABLES = st.sampled_from(["x", "y"])
NUMBERS = st.integers(-5, 5)


@dataclass
class Model:
    """What a session should be."""

    #: its variables
    variables: dict[str, int] = field(default_factory=dict)
    #: how many kernels it has had
    generation: int = 1
    #: how many cells it was given
    count: int = 0
    #: whether its kernel died and was not replaced
    dead: bool = False


class SessionsMachine(RuleBasedStateMachine):
    """One service and its model, over one life of an event loop."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="kernelry-model-"))
        self.runner = asyncio.Runner()
        self.models: dict[str, Model] = {}
        self.gone: set[str] = set()

    @initialize()
    def start(self) -> None:
        config = Config(
            state_dir=self.root / "state",
            state_dir_named=True,
            workspace=self.root / "workspace",
            kernel_start="fork",
            warm=1,
            preloads=(),
        )

        async def enter() -> Sessions:
            return await Sessions(config).__aenter__()

        self.sessions = self.runner.run(enter())

    def teardown(self) -> None:
        if hasattr(self, "sessions"):
            self.runner.run(self.sessions.__aexit__(None, None, None))
        self.runner.close()
        shutil.rmtree(self.root)

    # What can be done

    @rule(target=ids, name=NAMES)
    def create(self, name: str) -> object:
        creation = self.sessions.create(SessionSpec(id=name))
        if name in self.models:
            with pytest.raises(SessionExistsError):
                self.runner.run(creation)
            return multiple()
        self.runner.run(creation)
        self.models[name] = Model()
        return name

    @rule(name=ids, variable=VARIABLES, number=NUMBERS)
    def assign(self, name: str, variable: str, number: int) -> None:
        if done := self.cell(name, f"{variable} = {number}"):
            assert done.status is ExecutionStatus.COMPLETED
            self.models[name].variables[variable] = number

    @rule(name=ids, variable=VARIABLES)
    def read(self, name: str, variable: str) -> None:
        variables = self.models[name].variables if name in self.models else {}
        if done := self.cell(name, f"print({variable})"):
            if variable in variables:
                assert stream_text(done.outputs, "stdout") == f"{variables[variable]}\n"
            else:
                assert done.error is not None
                assert done.error.type == "NameError"

    @rule(name=ids)
    def fail(self, name: str) -> None:
        if done := self.cell(name, "print('before'); 1/0"):
            assert done.status is ExecutionStatus.FAILED
            assert stream_text(done.outputs, "stdout") == "before\n"

    @rule(name=ids, code=st.integers(0, 100))
    def exit(self, name: str, code: int) -> None:
        if done := self.cell(name, f"import os; print('last', flush=True); os._exit({code})"):
            assert done.status is ExecutionStatus.DIED
            assert done.error is not None
            assert f"exit code {code}" in done.error.message
            assert stream_text(done.outputs, "stdout") == "last\n"
            self.models[name].dead = True

    @rule(name=ids)
    def interrupt(self, name: str) -> None:
        if not self.usable(name):
            return

        async def stop() -> None:
            session = self.sessions.get(name)
            assert (await session.interrupt()).step is InterruptStep.NOTHING_RUNNING
            running = await started(self.sessions, session, "print(1, flush=True)\nwhile 1: pass")
            behind = await self.sessions.run(session, "1")
            assert (await session.interrupt()).step is InterruptStep.SIGINT
            assert running.snapshot().status is ExecutionStatus.INTERRUPTED
            assert await behind.wait(HANG)
            assert behind.snapshot().status is ExecutionStatus.COMPLETED

        self.runner.run(stop())
        self.models[name].count += 2

    @rule(name=ids, busy=st.booleans())
    def restart(self, name: str, busy: bool) -> None:
        if name not in self.models:
            return
        model = self.models[name]

        async def restart() -> None:
            session = self.sessions.get(name)
            if busy and not model.dead:
                model.count += 1
                running = await started(
                    self.sessions, session, "print(1, flush=True)\nwhile 1: pass"
                )
                await session.restart()
                assert running.snapshot().status is ExecutionStatus.DIED
            else:
                await session.restart()

        self.runner.run(restart())
        model.variables.clear()
        model.generation += 1
        model.dead = False

    @rule(name=ids, busy=st.booleans())
    def kill(self, name: str, busy: bool) -> None:
        if not self.usable(name):
            return

        async def kill() -> None:
            session = self.sessions.get(name)
            code = "print(1, flush=True)\nwhile 1: pass"
            running = await started(self.sessions, session, code) if busy else None
            os.kill(pid_of(session), signal.SIGKILL)
            await until(lambda: session.kernel_state is KernelState.DEAD, "it is dead")
            assert "SIGKILL" in session.death
            if running is not None:
                assert await running.wait(HANG)
                assert running.snapshot().status is ExecutionStatus.DIED

        self.runner.run(kill())
        self.models[name].dead = True
        self.models[name].count += busy

    @rule(name=consumes(ids))
    def delete(self, name: str) -> None:
        deletion = self.sessions.delete(name)
        if name not in self.models:
            with pytest.raises(SessionNotFoundError):
                self.runner.run(deletion)
            return
        self.runner.run(deletion)
        del self.models[name]
        self.gone.add(name)

    @precondition(lambda self: not self.models)
    @rule()
    def nothing(self) -> None:
        assert [session.id for session in self.sessions.list()] == ["default"]

    # What must be true after each step

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "sessions"):
            return
        there = {session.id: session for session in self.sessions.list()}
        assert set(there) == {"default", *self.models}
        for name, model in self.models.items():
            session = there[name]
            assert session.record.generation == model.generation
            assert session.record.execution_count == model.count
            expected = KernelState.DEAD if model.dead else KernelState.IDLE
            assert session.kernel_state is expected
            if not model.dead:
                done = self.cell(name, "print({n: v for n, v in globals().items() if n in 'xy'})")
                assert done is not None
                assert ast.literal_eval(stream_text(done.outputs, "stdout")) == model.variables
        directories = {session.directory.name for session in there.values()}
        on_disk = {path.name for path in (self.sessions.state_dir / "sessions").iterdir()}
        assert len(on_disk - directories) <= 2  # of warm kernels

    def usable(self, name: str) -> bool:
        """Say whether a session is there and takes code, by the model."""
        return name in self.models and not self.models[name].dead

    def cell(self, name: str, code: str) -> Execution | None:
        """Run a cell where that is possible; where it is not, check that it is refused."""
        if name not in self.models:
            with pytest.raises(SessionNotFoundError):
                self.sessions.get(name)
            return None
        session = self.sessions.get(name)
        if self.models[name].dead:
            with pytest.raises(KernelDeadError):
                self.runner.run(self.sessions.run(session, code))
            return None
        self.models[name].count += 1
        return self.runner.run(run(self.sessions, session, code))


@fault("B1", "B2")
def test_sessions_are_what_their_model_is() -> None:
    run_state_machine_as_test(
        SessionsMachine,
        settings=settings(
            max_examples=200 if SOAK else 10,
            stateful_step_count=50 if SOAK else 15,
            derandomize=not SOAK,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],  # pyright: ignore[reportArgumentType]
            # To shrink what failed takes minutes.
            phases=list(Phase) if SOAK else [Phase.generate],
        ),
    )
