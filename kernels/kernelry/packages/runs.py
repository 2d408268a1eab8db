"""The runs of uv in one installation: in which frame, behind which walls, until when.

No package's code ever runs in one of these: either uv takes wheels only, or it can start no
other program (`look`). What uv is told of passwords and of its cache stays here.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from kernelry.packages.uv import Aside, pip_arguments, uv_command
from kernelry.programs import Completed, Waiting, run_program, waiting_program
from kernelry.walls import Walls

TOLD_LATER = "-"  # as a program's name; see inside/walls/confined.py
SHORTEST = 0.1  # seconds that a run gets when there are none left
Hear = Callable[[bytes], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """The runs of uv in one installation."""

    #: the folder that all of it happens in
    slot: Path
    #: what is readable besides the system: the interpreter
    reads: Sequence[Path]
    #: those of an installation
    walls: Walls
    #: when it must be over, by the clock of the loop
    deadline: float
    #: processes that wait in their walls to become uv
    ready: list[Waiting]

    @property
    def seconds(self) -> float:
        """How many are left."""
        return max(self.deadline - asyncio.get_running_loop().time(), SHORTEST)

    async def prepare(self, stack: AsyncExitStack, count: int) -> None:
        """Start what will be uv, where there are walls to be built.

        Args:
            stack: Ends those that were not needed.
            count: How many.
        """
        if sys.platform != "linux":
            return
        command = uv_command([], self.slot)
        reads = [*self.reads, *command.readable]
        argv = self.walls.confine([TOLD_LATER], cwd=self.slot, reads=reads, writes=command.writable)
        for _ in range(count):
            program = waiting_program(argv, env=command.env, cwd=command.cwd)
            self.ready.append(await stack.enter_async_context(program))

    async def pip(
        self,
        frame: Path,
        options: Sequence[str],
        packages: Sequence[str],
        hear: Hear | None = None,
        *,
        aside: Aside | None = None,
    ) -> Completed:
        """Install wheels into a frame that nothing was installed into before.

        Args:
            frame: Where to.
            options: More of uv's.
            packages: What.
            hear: Called with what uv writes.
            aside: A cache of its own and the wheels that were built; None: the shared cache.
        """
        python = frame / "bin" / "python"
        arguments = pip_arguments(python, options, packages, allow_sdist=False)
        return await self._run(arguments, hear, aside)

    async def look(self, frame: Path, packages: Sequence[str], aside: Aside) -> Completed:
        """Ask what uv would install if it could build; it can't, and says what it would have to.

        It has then unpacked the source in the cache.

        Args:
            frame: What is there already.
            packages: What is wanted.
            aside: A cache that `meet` was called with for this frame.
        """
        python = frame / "bin" / "python"
        arguments = pip_arguments(python, ["--dry-run"], packages, allow_sdist=True)
        return await self._run(arguments, None, aside, alone=True)

    async def meet(self, frame: Path, aside: Aside) -> Completed:
        """Let uv ask the interpreter of a frame what it is; its cache remembers."""
        arguments = ["pip", "freeze", "--python", str(frame / "bin" / "python")]
        return await self._run(arguments, None, aside)

    async def _run(
        self,
        arguments: Sequence[str],
        hear: Hear | None,
        aside: Aside | None,
        *,
        alone: bool = False,
    ) -> Completed:
        command = uv_command(arguments, self.slot, aside)
        if self.ready and aside is None:
            return await self.ready.pop().run(command.argv, timeout=self.seconds, hear=hear)
        argv = list(command.argv)
        if sys.platform == "linux":
            reads = [*self.reads, *command.readable]
            argv = self.walls.confine(
                argv, cwd=self.slot, reads=reads, writes=command.writable, alone=alone
            )
        return await run_program(
            argv, env=command.env, cwd=command.cwd, timeout=self.seconds, hear=hear
        )
