"""What the kernels and the fork server of one service are started with."""

import secrets
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from carrel.config import AUTO_PRELOADS, Config, kernel_environment
from carrel.engines.forkserver import Profile
from carrel.engines.launch import Launch
from carrel.environments import SessionEnvironment
from carrel.paths import StateDirectory


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
    #: names of the private directories that were made by this service
    made: set[str] = field(default_factory=set)

    @property
    def lifeline(self) -> Path | None:
        """The FIFO that keeps kernels alive; see carrel/inside/launcher.py."""
        return self.state.runtime / "lifeline" if sys.platform == "linux" else None

    def profile(self) -> Profile | None:
        """Return what the fork server is started with; None: there can't be one here."""
        if sys.platform != "linux":
            return None
        preloads = self.config.preloads
        return Profile(
            python=self.python,
            preloads=AUTO_PRELOADS if preloads is None else preloads,
            optional=preloads is None,
            env=kernel_environment(self.state.path),
            directory=self.state.runtime,
            log_file=self.state.path / "forkserver.log",
            orphan_timeout=self.config.orphan_timeout,
            lifeline=self.lifeline,
        )

    def fresh(self) -> Launch:
        """Return the launch of a kernel in a new private directory."""
        return self.in_directory(self.state.sessions / self.new_name())

    def new_name(self) -> str:
        """Return a name for a private directory that nothing else has."""
        name = secrets.token_hex(8)
        self.made.add(name)
        return name

    def in_directory(
        self, directory: Path, environment: SessionEnvironment | None = None
    ) -> Launch:
        """Return the launch of a session's kernel."""
        launch = Launch(
            python=self.python,
            workspace=self.workspace,
            directory=directory,
            env=kernel_environment(directory),
            output=self.config.output,
            lifeline=self.lifeline,
        )
        has_own = environment is not None and environment.exists
        return replace(launch, environment=environment.paths) if has_own and environment else launch
