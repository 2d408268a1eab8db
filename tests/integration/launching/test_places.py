"""A server trusts no path that a session could put something else in the place of."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import kernelry
from kernelry import Config, Sessions
from kernelry.errors import IsolationError
from kernelry.paths import runtime_base


def configs(config: Config, root: Path) -> dict[str, tuple[Config, tuple[str, str]]]:
    """Return configurations that let a session out, and the two settings that do."""
    data = config.workspace / "data"
    token = root / "r" / "token"
    inner = replace(config, workspace=root / "shared" / "workspace")
    return {
        "the workspace in a folder that may be changed": (
            replace(inner, allow_write=(root / "shared",)),
            ("--workspace", "--allow-write"),
        ),
        "what may be read in the workspace": (
            replace(config, allow_read=(data,)),
            ("--allow-read", "--workspace"),
        ),
        "what may be changed in the workspace": (
            replace(config, allow_write=(data,)),
            ("--allow-write", "--workspace"),
        ),
        "the state directory in the workspace": (
            replace(config, state_dir=config.workspace / "state"),
            ("--state-dir", "--workspace"),
        ),
        "the state directory where everything may be read": (
            replace(config, allow_read=(root,)),
            ("--state-dir", "--allow-read"),
        ),
        "what may be read in what may be changed": (
            replace(config, allow_write=(root / "a",), allow_read=(root / "a" / "b",)),
            ("--allow-read", "--allow-write"),
        ),
        "the state directory that is the workspace": (
            replace(config, state_dir=config.workspace),
            ("--state-dir", "--workspace"),
        ),
        "the state directory that may be read": (
            replace(config, allow_read=(config.state_dir,)),
            ("--state-dir", "--allow-read"),
        ),
        "the workspace in the state directory": (
            replace(config, workspace=config.state_dir / "workspace"),
            ("--workspace", "--state-dir"),
        ),
        "what may be read in the state directory": (
            replace(config, allow_read=(config.state_dir / "sessions",)),
            ("--allow-read", "--state-dir"),
        ),
        "what may be read behind a link that is itself behind one in the workspace": (
            replace(config, allow_read=(root / "way",)),
            ("--allow-read", "--workspace"),
        ),
        "a token in what may be read": (
            replace(config, allow_read=(root / "r",), secrets={"--token-file": token}),
            ("--token-file", "--allow-read"),
        ),
        "settings in the workspace": (
            replace(config, trusted={"--config": data / "kernelry.toml"}),
            ("--config", "--workspace"),
        ),
        "our own code in what may be changed": (
            replace(config, allow_write=(Path(kernelry.__file__).parents[1],)),
            ("kernelry's own code", "--allow-write"),
        ),
        "our own interpreter in what may be changed": (
            replace(config, allow_write=(Path(sys.prefix).parent,)),
            ("kernelry's own code", "--allow-write"),
        ),
        "where sockets are in what may be changed": (
            replace(config, allow_write=(runtime_base(),)),
            ("XDG_RUNTIME_DIR", "--allow-write"),
        ),
        "the state directory behind a link in the workspace": (
            replace(config, state_dir=root / "link" / "state"),
            ("--state-dir", "--workspace"),
        ),
    }


@pytest.mark.parametrize("number", range(17))
async def test_a_path_that_sessions_could_change_is_refused_with_both_settings(
    config: Config, tmp_path: Path, number: int
) -> None:
    config.workspace.mkdir()
    (tmp_path / "link").symlink_to(config.workspace)
    (tmp_path / "there").mkdir()
    (config.workspace / "step").symlink_to(tmp_path / "there")
    (tmp_path / "way").symlink_to(config.workspace / "step")
    wanted, names = list(configs(config, tmp_path).values())[number]
    with pytest.raises(IsolationError) as refused:
        async with Sessions(replace(wanted, isolation="guard")):
            pass
    assert all(name in str(refused.value) for name in names), refused.value
    assert not (wanted.state_dir / "kernelry.sqlite").exists()
    without = Sessions(replace(wanted, isolation="process", warm=0))
    if set(names) == {"--state-dir", "--workspace"}:  # tools read and write files there, too
        with pytest.raises(IsolationError, match="the records and the keys of all sessions"):
            await without.__aenter__()
        return
    async with without:
        pass  # there are no walls that it could lead around


async def test_paths_beside_each_other_are_taken(config: Config, tmp_path: Path) -> None:
    for name in ("read", "write"):
        (tmp_path / name).mkdir()
    wanted = replace(
        config,
        isolation="guard",
        warm=0,
        allow_read=(tmp_path / "read",),
        allow_write=(tmp_path / "write", config.workspace),
    )
    async with Sessions(wanted) as sessions:
        assert sessions.walls.isolation == "guard"
