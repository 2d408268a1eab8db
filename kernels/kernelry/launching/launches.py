"""What the kernels and the fork server of one service are started with."""

import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

from kernelry.config import AUTO_PRELOADS, Config, kernel_environment
from kernelry.engines import Launch, Profile
from kernelry.packages import Installer, Interpreters, SessionEnvironment
from kernelry.paths import StateDirectory
from kernelry.walls import Walls


@dataclass(frozen=True, slots=True)
class Launches:
    """Makes the launches of one service."""

    #: how the service was set up
    config: Config
    #: interpreter of the kernels
    python: Path
    #: the state directory that was taken
    state: StateDirectory
    #: the shared folder
    workspace: Path
    #: what stands between a session and the rest, unless it asks for more
    walls: Walls
    #: what the interpreter needs to read
    reads: tuple[Path, ...]
    #: installs into sessions' environments
    installer: Installer
    #: knows what interpreters are, and which ones sessions can change
    interpreters: Interpreters
    #: names of the private directories that were made by this service
    made: set[str] = field(default_factory=set)

    @property
    def lifeline(self) -> Path | None:
        """The FIFO that keeps kernels alive; see kernelry/inside/starting/launcher.py."""
        return self.state.runtime / "lifeline" if sys.platform == "linux" else None

    def profile(self) -> Profile | None:
        """Return what the fork server is started with; None: there can't be one here."""
        if sys.platform != "linux":
            return None
        preloads = self.config.preloads
        root = self.state.path / "forkserver"
        return Profile(
            python=self.python,
            preloads=AUTO_PRELOADS if preloads is None else preloads,
            optional=preloads is None,
            env=self.interpreters.without_changeable(
                kernel_environment(root, self.config.kernel_env)
            ),
            directory=self.state.runtime,
            root=root,
            log_file=self.state.path / "forkserver.log",
            orphan_timeout=self.config.orphan_timeout,
            lifeline=self.lifeline,
        )

    def environment(self, directory: Path) -> dict[str, str]:
        """Return the variables of a session's kernel and scripts."""
        return kernel_environment(directory, self.config.kernel_env)

    def fresh(self) -> Launch:
        """Return the launch of a kernel in a new private directory."""
        directory = self.state.sessions / self.new_name()
        return self.of(directory, self.session_environment(directory, self.python))

    def new_name(self) -> str:
        """Return a name for a private directory that nothing else has."""
        name = secrets.token_hex(8)
        self.made.add(name)
        return name

    def new_branch(self, origin: Path) -> str:
        """Return a name for the private directory of a branch: its path from those of sessions.

        Args:
            origin: That of its origin.
        """
        area = self.state.area(origin).relative_to(self.state.path)
        name = f"../{area}/{secrets.token_hex(4)}"
        self.made.add(name)
        return name

    def session_environment(self, directory: Path, python: Path) -> SessionEnvironment:
        """Return the environment of the session that has a private directory."""
        return SessionEnvironment(directory / "env", python, self.installer)

    def of(
        self, directory: Path, environment: SessionEnvironment, walls: Walls | None = None
    ) -> Launch:
        """Return the launch of a session's kernel; `walls` if they are its own."""
        return Launch(
            python=environment.parent,
            workspace=self.workspace,
            directory=directory,
            env=self.environment(directory),
            environment=environment.launch,
            output=self.config.output,
            lifeline=self.lifeline,
            walls=walls or self.walls,
            reads=self.reads,
            area=self.state.area(directory),
        )
