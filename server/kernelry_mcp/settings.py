"""What can be set: defaults < kernelry.toml < KERNELRY_* variables < flags of `kernelry serve`.

One class, from which the flags and the reference page are made. Unknown keys are errors,
wherever they come from.
"""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from kernelry import ArtifactLimits, Config, Limits, OutputLimits, crashpoints
from kernelry.config import AUTO_PRELOADS
from kernelry.errors import KernelryError
from kernelry.output import SPILL_BYTES
from kernelry.templates import Template

PREFIX = "KERNELRY_"
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
ENDPOINT = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9_.-]+):(\d{1,5})")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
TOOLSETS = ("core", "files", "control", "artifacts", "checkpoints", "history", "events")
STDIO_ORPHAN_TIMEOUT = 60.0  # seconds; a host that was restarted is back by then
HTTP_ORPHAN_TIMEOUT = 3600.0


class SettingsError(KernelryError):
    """A setting can't be used."""

    code = "bad_setting"


def _words(value: Any) -> Any:
    return (
        [word for word in re.split(r"[,\s]+", value) if word] if isinstance(value, str) else value
    )


def _paths(value: Any) -> Any:
    return [p for p in value.split(os.pathsep) if p] if isinstance(value, str) else value


Paths = Annotated[list[Path], NoDecode, BeforeValidator(_paths)]


def _bytes(value: Any) -> Any:
    """Return a number of bytes that may be written as 500M or 2G."""
    match = SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        if isinstance(value, str):
            raise ValueError("write a number of bytes, like 2000000, 500M or 2G")
        return value
    return round(float(match[1]) * SIZE_UNITS[match[2].upper()])


def default_memory() -> int:
    """Return the bytes that a session may use when nobody says."""
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return pages * os.sysconf("SC_PAGE_SIZE") * 3 // 4 if pages else 0


Size = Annotated[int, BeforeValidator(_bytes)]
Words = Annotated[list[str], NoDecode, BeforeValidator(_words)]


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


class TemplateSetting(BaseModel):
    """A preset for sessions; see kernelry.templates."""

    model_config = ConfigDict(extra="forbid")

    description: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    packages: tuple[str, ...] = ()
    limits: dict[Literal["memory", "processes", "cpu_seconds", "idle_seconds"], float] = {}
    startup: str = ""


Templates = Annotated[dict[str, TemplateSetting], NoDecode, BeforeValidator(_json)]


class Settings(BaseSettings):
    """All settings of a server."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    _source: Path | None = PrivateAttr(None)  # the file that they were read from

    workspace: Path = Field(
        default=Path("~/kernelry"),
        description="Folder that all sessions share; every kernel's working directory.",
    )
    state_dir: Path | None = Field(
        default=None,
        description="Where records, environments and logs are kept. Default: the user's state "
        "directory, or a numbered one beside it if another server holds that.",
    )
    http: str = Field(
        default="",
        description="Serve streamable HTTP on HOST:PORT of this machine instead of stdio.",
    )
    token_file: Path | None = Field(
        default=None,
        description="File with the bearer token that HTTP clients must send. Default: a new token "
        "in STATE_DIR/token-PORT at each start.",
    )
    python: Path | None = Field(
        default=None,
        description="Interpreter of the kernels; it needs ipykernel. Default: the server's own.",
    )
    allow_sdist: bool = Field(
        default=False,
        description="Build packages from source where no wheel fits (Linux only). That runs their "
        "authors' code before anybody imports it, behind the walls of the session.",
    )
    kernel_start: Literal["auto", "fork", "spawn"] = Field(
        default="auto",
        description="How kernels start: forked from a warm process, or as fresh ones; auto takes "
        "what a test at the start proves.",
    )
    warm: int = Field(default=2, ge=0, le=100, description="Kernels that are kept ready.")
    preload: Words = Field(
        default=["auto"],
        description="Modules that forked kernels have imported: names, none, or auto "
        f"({', '.join(AUTO_PRELOADS)} where the interpreter has them).",
    )
    orphan_timeout: float | None = Field(
        default=None,
        ge=0,
        le=604_800,
        allow_inf_nan=False,
        description="Seconds that kernels go on without a server, for the next one to take over. "
        "Default: 60, with --http 3600.",
    )
    keep_kernels: bool = Field(
        default=False,
        description="Leave the kernels to the next server also when this one is told to end; only "
        "with --http.",
    )
    isolation: Literal["auto", "process", "guard", "box"] = Field(
        default="auto",
        description="How sessions are kept apart: process, guard (Landlock and seccomp), box "
        "(bubblewrap); auto takes guard, else box, else process: the first that a probe proves.",
    )
    network: bool | None = Field(
        default=None,
        description="Whether sessions may use the network. Default: yes, with --http no.",
    )
    allow_read: Paths = Field(
        default=[], description="Files and folders that sessions may read besides their own."
    )
    allow_write: Paths = Field(
        default=[], description="Files and folders that sessions may change besides their own."
    )
    kernel_env: Words = Field(
        default=[],
        description="Variables of the server that kernels get too, besides harmless ones: NAME, "
        "or NAME=VALUE.",
    )
    memory_limit: Size = Field(
        default=-1,
        description="Memory of one session with all its processes, like 2G; 0: no limit. Default: "
        "three quarters of the machine's.",
    )
    total_memory: Size = Field(
        default=-1,
        ge=-1,
        description="Bytes of memory that all sessions together may use, 0 for no limit; beyond it "
        "the session that uses most is ended. Default: three quarters of the machine's.",
    )
    process_limit: int = Field(
        default=1000, ge=0, description="Processes of one session at once; 0: no limit."
    )
    file_size_limit: Size = Field(
        default=0, description="Size of a file that a session writes, like 2G; 0: no limit."
    )
    open_files_limit: int = Field(
        default=0, ge=0, description="Open files of one process of a session; 0: the server's."
    )
    cpu_limit: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds of processor time of one execution; 0: no limit.",
    )
    control_groups: bool | None = Field(
        default=None,
        description="Put each kernel into a control group of its own where Linux lets us: what "
        "belongs to a session is known for sure then. Default: on.",
    )
    idle_timeout: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds without an execution after which a session's kernel is stopped; the "
        "session stays. 0: never.",
    )
    workspace_limit: Size = Field(
        default=0,
        description="Size of the workspace, like 20G; what runs beyond it is interrupted. "
        "0: no limit.",
    )
    max_sessions: int = Field(
        default=100, ge=1, le=10_000, description="Sessions that may exist at once."
    )
    save_on_stop: bool | None = Field(
        default=None,
        description="Save the variables of sessions when the server stops in order, as far as "
        "they can be in 0.8 s; whoever uses a session next finds them. Default: on.",
    )
    keep_checkpoints: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="Automatic checkpoints (before a restart, ...) that are kept of each session.",
    )
    rewind: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Executions of each session before which it can be put back, the newest N, "
        "unless create_session says otherwise; each costs a fork of its kernel.",
    )
    live_checkpoints: int = Field(
        default=20,
        ge=0,
        le=1000,
        description="Live checkpoints that there may be, of all sessions together; the oldest goes "
        "first. 0: none can be made.",
    )
    live_memory: Size = Field(
        default=-1,
        ge=-1,
        description="Bytes of memory that all live checkpoints together may have of their own; the "
        "oldest goes first. Default: a quarter of the machine's.",
    )
    execution_timeout: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds a cell may run when its call gives no timeout; 0: no limit.",
    )
    wait: float = Field(
        default=30,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds a call waits for its cell before it answers 'running'.",
    )
    on_cancel: Literal["interrupt", "detach"] = Field(
        default="interrupt",
        description="What a client's cancel does to the cell that its call waits for. Over HTTP's "
        "2026-07-28 wire a cancel can't be told from a lost connection: there the cell always "
        "goes on, and interrupt_execution stops it.",
    )
    upload_bytes: int = Field(
        default=2_000_000_000,
        ge=1,
        description="Bytes of a file that is brought by an upload link.",
    )
    text_budget: int = Field(
        default=8_000,
        ge=500,
        le=40_000,
        description="Characters of output in one answer; the rest is read by pages.",
    )
    image_count: int = Field(
        default=10, ge=0, le=100, description="Pictures in one answer; others are named."
    )
    image_side: int = Field(
        default=2_000,
        ge=64,
        le=8_000,
        description="Pixels of a picture's longer side in an answer; larger ones are scaled.",
    )
    spill_limit: int = Field(
        default=64 << 20,
        ge=1 << 20,
        le=SPILL_BYTES,
        description="Bytes of one cell's output that are kept to be read by pages.",
    )
    templates: Templates = Field(
        default={},
        description="Presets for create_session, as JSON, or as tables [templates.NAME] in "
        "kernelry.toml: description, tags, metadata, packages, limits, and startup (code that each "
        "kernel runs first).",
    )
    artifact_size_limit: Size = Field(
        default=100 << 20, ge=0, description="Size of one artifact, like 1G; 0: no limit."
    )
    artifact_count_limit: int = Field(
        default=1000, ge=0, description="Artifacts of one session; 0: no limit."
    )
    artifact_total_limit: Size = Field(
        default=10 << 30,
        ge=0,
        description="Size of one session's artifacts together, uncompressed; 0: no limit.",
    )
    toolsets: Words = Field(
        default=["core"], description=f"Tools to offer: all, or some of {', '.join(TOOLSETS)}."
    )
    exclude_tools: Words = Field(default=[], description="Tools not to offer.")
    read_only: bool = Field(default=False, description="Offer only tools that change nothing.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="What is logged on stderr."
    )

    @field_validator("http")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if not value:
            return value
        match = ENDPOINT.fullmatch(value)
        if match is None or int(match[2]) > 65535:
            raise ValueError("write HOST:PORT, like 127.0.0.1:8000 (port 0: any free one)")
        if match[1] not in LOOPBACK:
            raise ValueError(f"only {', '.join(sorted(LOOPBACK))} can be served, not {match[1]}")
        return value

    @field_validator("toolsets")
    @classmethod
    def _check_toolsets(cls, value: list[str]) -> list[str]:
        unknown = [name for name in value if name not in (*TOOLSETS, "all")]
        if unknown or not value:
            raise ValueError(f"unknown toolset {unknown}; there are {', '.join(TOOLSETS)} and all")
        return list(TOOLSETS) if "all" in value else value

    @field_validator("preload")
    @classmethod
    def _check_preload(cls, value: list[str]) -> list[str]:
        for name in value:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is no module name")
        if len(value) > 1 and {"auto", "none"} & set(value):
            raise ValueError("auto and none stand alone")
        return value

    @model_validator(mode="after")
    def _check_keep_kernels(self) -> Self:
        if self.keep_kernels and not self.http:
            raise ValueError("keep_kernels needs --http: over stdio a server ends with its host")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then variables; the file is read by `load`, which names it in errors."""
        return (init_settings, env_settings)

    @classmethod
    def load(cls, flags: dict[str, Any] | None = None, config: Path | None = None) -> Self:
        """Put the sources together.

        Args:
            flags: What the command line gave.
            config: A file instead of the user's kernelry.toml.

        Raises:
            SettingsError: A key is unknown or a value can't be used; the message names it.
        """
        known = set(cls.model_fields)
        for name in os.environ:
            key = name.removeprefix(PREFIX).lower()
            if name.startswith(PREFIX) and key not in known and name != crashpoints.VARIABLE:
                raise SettingsError(f"unknown variable {name}; `kernelry settings` lists all")
        path = config or platformdirs.user_config_path("kernelry") / "kernelry.toml"
        from_file = read_file(path, required=config is not None)
        for key in from_file:
            if key not in known:
                raise SettingsError(f"unknown key {key!r} in {path}; `kernelry settings` lists all")
            # A variable beats the file, and pydantic takes what is given here first.
        given = [name for name in os.environ if name.startswith(PREFIX)]
        in_env = {name.removeprefix(PREFIX).lower() for name in given}
        merged = {k: v for k, v in from_file.items() if k not in in_env} | (flags or {})
        try:
            settings = cls(**merged)
            settings._source = path
            return settings
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            msg = f"{where}: {first['msg']} (given: {str(first['input'])[:80]!r})"
            raise SettingsError(msg) from error

    @property
    def orphan_seconds(self) -> float:
        """Seconds that kernels go on without a server."""
        if self.orphan_timeout is not None:
            return self.orphan_timeout
        return HTTP_ORPHAN_TIMEOUT if self.http else STDIO_ORPHAN_TIMEOUT

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port to serve HTTP on."""
        host, _, port = self.http.rpartition(":")
        return host.strip("[]"), int(port)

    def config(self) -> Config:
        """Return what the library needs to know."""
        given: dict[str, Any] = {}
        if self.state_dir is not None:
            given |= {"state_dir": self.state_dir, "state_dir_named": True}
        if self.python is not None:
            given["python"] = self.python
        if self.preload != ["auto"]:
            given["preloads"] = () if self.preload in (["none"], []) else tuple(self.preload)
        return Config(
            workspace=self.workspace,
            allow_sdist=self.allow_sdist,
            kernel_start=self.kernel_start,
            warm=self.warm,
            orphan_timeout=self.orphan_seconds,
            keep_kernels=self.keep_kernels,
            max_sessions=self.max_sessions,
            keep_checkpoints=self.keep_checkpoints,
            rewind=self.rewind,
            live_checkpoints=self.live_checkpoints,
            live_memory=self.live_memory if self.live_memory >= 0 else default_memory() // 3,
            save_on_stop=self.save_on_stop is not False,
            execution_timeout=self.execution_timeout or None,
            isolation=self.isolation,
            network=not self.http if self.network is None else self.network,
            allow_read=tuple(path.expanduser().absolute() for path in self.allow_read),
            allow_write=tuple(path.expanduser().absolute() for path in self.allow_write),
            kernel_env=tuple(self.kernel_env),
            control_groups=self.control_groups is not False,
            secrets={"--token-file": self.token_file} if self.token_file else {},
            trusted={"--config": self._source} if self._source else {},
            limits=Limits(
                memory=self.memory_limit if self.memory_limit >= 0 else default_memory(),
                processes=self.process_limit,
                file_size=self.file_size_limit,
                open_files=self.open_files_limit,
                cpu_seconds=self.cpu_limit,
                idle_seconds=self.idle_timeout,
                workspace=self.workspace_limit,
            ),
            artifacts=ArtifactLimits(
                size=self.artifact_size_limit,
                count=self.artifact_count_limit,
                total=self.artifact_total_limit,
            ),
            output=OutputLimits(spill_bytes=self.spill_limit),
            total_memory=self.total_memory if self.total_memory >= 0 else default_memory(),
            templates={
                name: Template(**template.model_dump()) for name, template in self.templates.items()
            },
            **given,
        )


def read_file(path: Path, *, required: bool) -> dict[str, Any]:
    """Return the content of a TOML file; nothing if it need not exist and does not."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise SettingsError(f"there is no {path}") from None
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"can't read {path}: {error}") from error
