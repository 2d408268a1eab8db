"""uv, the program that resolves and installs: where it is, and the one way in which it is run."""

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import platformdirs

from kernelry.errors import InstallError

#: variables that uv is given besides those that tell it where packages are
KEPT = ("PATH", "LANG", "LC_ALL", "NETRC", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
#: those that name a file or a folder which uv reads
READ_FROM = ("UV_CONFIG_FILE", "NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR")
KEPT_PREFIXES = ("UV_", "PIP_", "SSL_")
#: variables of uv that would point it elsewhere, or make it run what it has installed
DROPPED_PREFIXES = ("UV_PYTHON", "UV_PROJECT", "UV_TOOL", "UV_VENV", "UV_WORKING")
DROPPED = frozenset(
    {"UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_COMPILE_BYTECODE", "UV_LINK_MODE"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A program of ours that is started on behalf of a session."""

    #: the program and its arguments
    argv: tuple[str, ...]
    #: environment variables, all of them
    env: dict[str, str]
    #: its working directory; nothing of a session is in it
    cwd: Path
    #: where it must be able to write
    writable: tuple[Path, ...]
    #: what it must be able to read besides the system
    readable: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Aside:
    """What uv uses where it meets wheels that were built here: nothing that others use too."""

    #: a cache
    cache: Path
    #: a folder of wheels, which it takes besides those of indexes
    wheels: Path


@cache
def uv_binary() -> Path:
    """Return the uv that came as our dependency.

    Raises:
        InstallError: It is not there.
    """
    import uv

    try:
        return Path(uv.find_uv_bin())
    except FileNotFoundError as error:
        msg = "uv is not installed; reinstall kernelry, it is one of its dependencies"
        raise InstallError(msg) from error


def uv_command(arguments: Sequence[str], folder: Path, aside: Aside | None = None) -> Command:
    """Return how uv is run: the one place that knows, for every process of it.

    Args:
        arguments: What uv is told.
        folder: Where it works; it can write there and in its cache, and needs nothing else.
        aside: Its cache and more wheels; None: the cache of all sessions.

    Raises:
        InstallError: uv is not there.
    """
    ours = platformdirs.user_cache_path("kernelry")
    env = {name: value for name, value in os.environ.items() if is_for_uv(name)}
    env.setdefault("UV_CACHE_DIR", str(ours / "uv"))
    links = list(filter(None, env.get("UV_FIND_LINKS", "").split(",")))
    if aside is not None:
        env["UV_CACHE_DIR"] = str(aside.cache)
        env["UV_FIND_LINKS"] = ",".join([*links, aside.wheels.as_uri()])
    cache = Path(env["UV_CACHE_DIR"])
    home = ours / "home"
    for path in (home, cache):  # within walls it could not make them
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Its own home has neither the user's settings for uv nor their passwords for indexes.
    for name, path in (
        ("UV_CONFIG_FILE", platformdirs.user_config_path("uv") / "uv.toml"),
        ("NETRC", Path.home() / ".netrc"),
    ):
        if name not in env and path.is_file():
            env[name] = str(path)
    env |= {"HOME": str(home), "TMPDIR": str(folder)}
    env |= {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    known = ssl.get_default_verify_paths()
    if known.cafile or known.capath:
        # The machine's own certificates, as a company's proxy may need them; hosts start
        # servers without the variables that would say so.
        env["UV_SYSTEM_CERTS"] = "1"
    argv = (str(uv_binary()), *arguments)
    readable = [Path(env[name]) for name in READ_FROM if name in env]
    readable += [
        Path(unquote(link.removeprefix("file://")))
        for link in links
        if link.startswith("file://") or "://" not in link
    ]
    return Command(
        argv=argv,
        env=env,
        cwd=folder,
        writable=(folder, cache, home),
        readable=(uv_binary(), *readable),
    )


def is_for_uv(name: str) -> bool:
    """Say whether uv is given a variable of ours."""
    if name in DROPPED or name.startswith(DROPPED_PREFIXES):
        return False
    is_proxy = name.upper().endswith("_PROXY")
    return is_proxy or name in KEPT or name.startswith(KEPT_PREFIXES)


def pip_arguments(
    python: Path, options: Sequence[str], packages: Sequence[str], *, allow_sdist: bool
) -> list[str]:
    """Return what uv is told to install packages.

    Args:
        python: Interpreter of the environment to install into.
        options: Of ours.
        packages: Each is one argument behind ``--``, whatever it is.
        allow_sdist: Whether a package without a wheel counts. uv can't be let build it: that
            would run its author's code beside uv's passwords and its cache (see `Runs.look`).
    """
    # Never linked to the cache: what one session changes must not be what others get.
    found = ["pip", "install", "--python", str(python), "--link-mode", "copy", *options]
    if allow_sdist:  # no environment for a build that will not be, nothing a source points to
        found += ["--no-build-isolation", "--no-sources"]
    else:
        found += ["--only-binary", ":all:"]
    return [*found, "--", *packages]
