"""The entry for kernelry in a client's configuration: shown, or merged into its file.

The file lies in a folder that may not be ours alone (a project that somebody cloned), so what is
there is not trusted to be a file: no link below the folder is followed, only regular files are
read, up to a megabyte, and a file that is replaced keeps its mode and its owner.
"""

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from kernelry.beneath import reading, writing
from kernelry.errors import KernelryError

NAME = "kernelry"
CONFIG_BYTES = 1 << 20  # largest configuration that is read
BACKUP = ".before-kernelry"  # behind the name of the file that was there


class ClientConfigError(KernelryError):
    """A client's configuration file can't be used."""

    code = "client_config"


@dataclass(frozen=True, slots=True)
class Client:
    """Where a client keeps its servers."""

    #: a folder that is the user's word: links on the way to it are followed
    folder: Path
    #: its configuration file, relative to that; no link is followed here
    name: str
    #: key of the object that holds the servers
    key: str
    #: whether an entry says its transport
    typed: bool = False

    @property
    def path(self) -> Path:
        """Its configuration file."""
        return self.folder / self.name

    def at(self, path: Path) -> "Client":
        """Return the same client with its configuration in another file."""
        return replace(self, folder=path.absolute().parent, name=path.name)


def known_clients() -> dict[str, Client]:
    """Return the clients we can write for, by name."""
    home = Path.home()
    desktop = platformdirs.user_config_path("Claude", appauthor=False, roaming=True)
    return {
        "claude-desktop": Client(desktop, "claude_desktop_config.json", "mcpServers"),
        "claude-code": Client(Path.cwd(), ".mcp.json", "mcpServers"),
        "cursor": Client(home / ".cursor", "mcp.json", "mcpServers"),
        "vscode": Client(Path.cwd(), ".vscode/mcp.json", "servers", typed=True),
    }


def entry(client: Client, workspace: Path) -> dict[str, Any]:
    """Return what starts this kernelry over stdio, with absolute paths.

    Hosts start servers in a directory of their own choosing and with a short PATH.
    """
    script = Path(sys.argv[0])
    if script.name == "kernelry" and (found := shutil.which(str(script))):
        command, args = str(Path(found).absolute()), ["serve"]
    else:
        command, args = sys.executable, ["-m", "kernelry_mcp", "serve"]
    args += ["--workspace", str(workspace.expanduser().absolute())]
    return {**({"type": "stdio"} if client.typed else {}), "command": command, "args": args}


def merged(client: Client, workspace: Path) -> dict[str, Any]:
    """Return the client's configuration with our entry in it, everything else as it was.

    Raises:
        ClientConfigError: There is something that is no such configuration: a link, a device,
            more than `CONFIG_BYTES`, other JSON.
    """
    text = present(client)
    try:
        config: Any = json.loads(text) if text is not None and text.strip() else {}
    except (ValueError, RecursionError) as error:
        msg = f"{client.path} is not JSON that can be merged: {error}. Nothing was changed."
        raise ClientConfigError(msg) from error
    servers = config.setdefault(client.key, {}) if isinstance(config, dict) else None
    if not isinstance(servers, dict):
        msg = f"{client.path} has no object {client.key!r} to put kernelry in. Nothing was changed."
        raise ClientConfigError(msg)
    servers[NAME] = entry(client, workspace)
    return dict(config)


def present(client: Client) -> bytes | None:
    """Return what is in a client's configuration file; None: there is none.

    Raises:
        ClientConfigError: It can't be read, or is no regular file.
    """
    try:
        return reading.read(client.folder, client.name, CONFIG_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        msg = (
            f"{client.path} can't be read: {error.strerror or error}. It must be a file of at most "
            f"{CONFIG_BYTES} bytes, not a link. Nothing was changed; --path names another file."
        )
        raise ClientConfigError(msg) from error


def write(client: Client, config: dict[str, Any]) -> Path | None:
    """Write a configuration, keeping the old file beside it.

    Args:
        client: Whose.
        config: All of it.

    Returns:
        Path of the old file's copy; None: there was no file.

    Raises:
        ClientConfigError: Something else than a file is in the place of one of the two, or it
            can't be written; the configuration was not changed.
    """
    client.folder.mkdir(parents=True, exist_ok=True)
    before = present(client)
    backup = client.path.with_name(client.path.name + BACKUP)
    text = json.dumps(config, indent=2) + "\n"
    try:
        if before is not None:
            writing.replace(client.folder, client.name + BACKUP, before, like=client.name)
        writing.replace(client.folder, client.name, text.encode())
    except OSError as error:
        msg = f"{client.path} can't be written: {error.strerror or error}. It was not changed."
        raise ClientConfigError(msg) from error
    return None if before is None else backup
