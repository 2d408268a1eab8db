"""The entry for kernelry in a client's configuration: shown, or merged into its file."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from kernelry.errors import KernelryError

NAME = "kernelry"


class ClientConfigError(KernelryError):
    """A client's configuration file can't be used."""

    code = "client_config"


@dataclass(frozen=True, slots=True)
class Client:
    """Where a client keeps its servers."""

    #: its configuration file
    path: Path
    #: key of the object that holds the servers
    key: str
    #: whether an entry says its transport
    typed: bool = False


def known_clients() -> dict[str, Client]:
    """Return the clients we can write for, by name."""
    home = Path.home()
    desktop = platformdirs.user_config_path("Claude", appauthor=False, roaming=True)
    return {
        "claude-desktop": Client(desktop / "claude_desktop_config.json", "mcpServers"),
        "claude-code": Client(Path.cwd() / ".mcp.json", "mcpServers"),
        "cursor": Client(home / ".cursor" / "mcp.json", "mcpServers"),
        "vscode": Client(Path.cwd() / ".vscode" / "mcp.json", "servers", typed=True),
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
        ClientConfigError: The file holds something that is not such a configuration.
    """
    config: Any = {}
    try:
        text = client.path.read_text(encoding="utf-8")
        config = json.loads(text) if text.strip() else {}
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        msg = f"{client.path} is not JSON that can be merged: {error}. Nothing was changed."
        raise ClientConfigError(msg) from error
    servers = config.setdefault(client.key, {}) if isinstance(config, dict) else None
    if not isinstance(servers, dict):
        msg = f"{client.path} has no object {client.key!r} to put kernelry in. Nothing was changed."
        raise ClientConfigError(msg)
    servers[NAME] = entry(client, workspace)
    return dict(config)


def write(client: Client, config: dict[str, Any]) -> Path | None:
    """Write a configuration, keeping the old file beside it; return that backup's path."""
    client.path.parent.mkdir(parents=True, exist_ok=True)
    backup = None
    if client.path.exists():
        backup = client.path.with_name(client.path.name + ".before-kernelry")
        shutil.copy2(client.path, backup)
    temporary = client.path.with_name(f".{client.path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    temporary.replace(client.path)
    return backup
