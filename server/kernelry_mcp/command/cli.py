"""The command `kernelry`: serve, doctor, client-config, settings.

What is slow to import (the MCP SDK, the library) is imported by the command that needs it.
"""

import gc
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from kernelry.errors import KernelryError
from kernelry.launching import raise_limit
from kernelry_mcp.process import exit_on_signals, hide_memory, logging_to_stderr
from kernelry_mcp.settings import Settings

FOLLOW_PERIOD = 0.5  # seconds between looks for new events


def flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one flag per setting."""
    for name, field in reversed(Settings.model_fields.items()):
        flag = f"--{name.replace('_', '-')}"
        default = field.get_default()
        shown = ",".join(default) if isinstance(default, list) else default
        text = field.description or ""
        if default not in (None, "", False) and "efault" not in text:
            text += f" Default: {shown}."
        choices = [str(choice) for choice in get_args(field.annotation)]
        if field.annotation == bool | None:
            pair = f"{flag}/--no-{flag[2:]}"
            option = click.option(pair, default=None, help=text)
        elif field.annotation == list[Path]:
            option = click.option(flag, multiple=True, help=text, metavar="VALUE")
        elif field.annotation is bool:
            option = click.option(flag, is_flag=True, default=None, help=text)
        elif choices and all(isinstance(choice, str) for choice in get_args(field.annotation)):
            option = click.option(flag, type=click.Choice(choices), default=None, help=text)
        else:
            option = click.option(flag, default=None, help=text, metavar="VALUE")
        command = option(command)
    return click.option(
        "--config", type=click.Path(path_type=Path), help="Read this kernelry.toml instead."
    )(command)


def load(config: Path | None, given: dict[str, Any]) -> Settings:
    """Return the settings, or end with a message."""
    try:
        return Settings.load({k: v for k, v in given.items() if v not in (None, ())}, config)
    except KernelryError as error:
        raise click.ClickException(str(error)) from error


@click.group()
@click.version_option(package_name="kernelry")
def main() -> None:
    """Isolated Jupyter kernels, one per session id, for agents over MCP."""


@main.command()
@flags
def serve(config: Path | None, **given: Any) -> None:
    """Serve MCP: over stdio, or with --http over streamable HTTP on this machine."""
    exit_on_signals()
    settings = load(config, given)
    with logging_to_stderr(settings.log_level):
        serve_with(settings)


def serve_with(settings: Settings) -> None:
    """Serve until the end.

    Raises:
        click.ClickException: It can't be served like this.
    """
    raise_limit()
    hide_memory()
    if settings.log_level != "DEBUG":  # each request is no news
        logging.getLogger("mcp").setLevel(logging.WARNING)
    # Nothing of what is imported now is ever garbage; not looking for it saves a tenth of
    # the start (scripts/bench --only start).
    gc.disable()
    from kernelry_mcp.app import build_app
    from kernelry_mcp.links import Links

    try:
        links = Links()
        server = build_app(settings, links)
        gc.freeze()
        gc.enable()
        if settings.http:
            from kernelry_mcp.transports import http

            tokens = settings.config().state_dir.expanduser().absolute()
            http.run(server, settings, links, tokens)
        else:
            from kernelry_mcp.transports import stdio

            stdio.run(server)
    except BaseExceptionGroup as group:
        known = group.subgroup(KernelryError)
        if known is None:
            raise
        raise click.ClickException(str(first_of(known))) from group
    except KernelryError as error:
        raise click.ClickException(str(error)) from error


def first_of(group: BaseExceptionGroup[KernelryError]) -> KernelryError:
    """Return an error of a group, however deep."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


@main.command()
@flags
def doctor(config: Path | None, **given: Any) -> None:
    """Say what works on this machine, and the cure for what does not."""
    from kernelry_mcp.command.doctor import examine

    failed = 0
    for finding in examine(load(config, given)):
        mark = "ok  " if finding.ok else ("FAIL" if finding.needed else "-   ")
        click.echo(f"{mark} {finding.name:<11} {finding.found}")
        if not finding.ok:
            click.echo(f"     {'':<11} cure: {finding.cure}")
            failed += finding.needed
    if failed:
        raise SystemExit(1)


@main.command()
@flags
@click.option("--since", default=0, help="Only events after this number.")
@click.option("--topic", "topics", multiple=True, help="Only topics that match this glob.")
@click.option("--session", "session_ids", multiple=True, help="Only events of this session.")
@click.option("--follow", is_flag=True, help="Go on with what comes, until interrupted.")
def events(
    config: Path | None,
    since: int,
    topics: tuple[str, ...],
    session_ids: tuple[str, ...],
    follow: bool,
    **given: Any,
) -> None:
    """Print the log of events, one line of JSON each, also beside a running server."""
    from dataclasses import asdict

    from kernelry.events import read_events
    from kernelry.paths import DATABASE_NAME

    database = load(config, given).config().state_dir.expanduser() / DATABASE_NAME
    try:
        while True:
            found = read_events(database, since=since, topics=topics, sessions=session_ids)
            for event in found:
                click.echo(json.dumps({**asdict(event), "at": event.at.isoformat()}))
                since = event.seq
            if not follow:
                return
            time.sleep(FOLLOW_PERIOD)
    except KernelryError as error:
        raise click.ClickException(str(error)) from error
    except (KeyboardInterrupt, BrokenPipeError):  # whoever reads has had enough
        return


@main.command("settings")
@flags
def show_settings(config: Path | None, **given: Any) -> None:
    """Print all settings with their values in force."""
    settings = load(config, given)
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        click.echo(f"{name} = {json.dumps(value, default=str)}")
        click.echo(f"    {field.description}")


@main.command("client-config")
@click.option(
    "--client",
    "client_name",
    required=True,
    type=click.Choice(["claude-desktop", "claude-code", "cursor", "vscode"]),
    help="Whose configuration.",
)
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    default=Path("~/kernelry"),
    help="Folder that all sessions share. Default: ~/kernelry.",
)
@click.option("--path", type=click.Path(path_type=Path), help="Another file than the usual one.")
@click.option("--write", is_flag=True, help="Merge it into the file; the old one is kept beside.")
def client_config(client_name: str, workspace: Path, path: Path | None, write: bool) -> None:
    """Show or write the JSON that makes a client start kernelry."""
    from kernelry_mcp.command import clients

    client = clients.known_clients()[client_name]
    if path is not None:
        client = client.at(path)
    try:
        config = clients.merged(client, workspace)
        if not write:
            only = {client.key: {clients.NAME: config[client.key][clients.NAME]}}
            click.echo(json.dumps(only, indent=2))
            click.echo(f"This belongs into {client.path}; --write puts it there.", err=True)
            return
        backup = clients.write(client, config)
    except (KernelryError, OSError) as error:
        raise click.ClickException(str(error)) from error
    kept = f" (the old file is {backup})" if backup else ""
    click.echo(f"Wrote {client.path}{kept}. Restart {client_name} to use it.")


if __name__ == "__main__":
    main()
