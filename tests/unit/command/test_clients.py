"""What `kernelry client-config` does to a client's own file."""

import json
import os
from pathlib import Path

import pytest

from kernelry_mcp.command.clients import Client, ClientConfigError, merged, write


def client(path: Path, *, typed: bool = False) -> Client:
    return Client(path.parent, path.name, "servers" if typed else "mcpServers", typed=typed)


def test_a_missing_file_is_made_with_its_folder(tmp_path: Path) -> None:
    target = client(tmp_path / "new" / "config.json")
    assert write(target, merged(target, tmp_path / "work")) is None
    entry = json.loads(target.path.read_text(encoding="utf-8"))["mcpServers"]["kernelry"]
    assert Path(entry["command"]).is_absolute()
    assert entry["args"][-2:] == ["--workspace", str(tmp_path / "work")]


def test_other_entries_stay_and_the_old_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    before = {"theme": "dark", "mcpServers": {"other": {"command": "x"}, "kernelry": {"old": 1}}}
    path.write_text(json.dumps(before), encoding="utf-8")
    backup = write(client(path), merged(client(path), tmp_path))
    assert backup is not None
    assert json.loads(backup.read_text(encoding="utf-8")) == before
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after["theme"] == "dark"
    assert after["mcpServers"]["other"] == {"command": "x"}
    assert "command" in after["mcpServers"]["kernelry"]


def test_vs_code_is_told_the_transport(tmp_path: Path) -> None:
    config = merged(client(tmp_path / "mcp.json", typed=True), tmp_path)
    assert config["servers"]["kernelry"]["type"] == "stdio"


@pytest.mark.parametrize("text", ["{", "[]", '{"mcpServers": []}'])
def test_a_file_that_can_not_be_merged_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ClientConfigError, match="Nothing was changed"):
        merged(client(path), tmp_path)
    assert path.read_text(encoding="utf-8") == text


def test_a_file_that_is_replaced_keeps_its_mode_and_its_owner_and_so_does_its_copy(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}", encoding="utf-8")
    path.chmod(0o600)
    if os.getuid() == 0:
        os.chown(path, 12_345, 12_346)
    before = path.stat()
    backup = write(client(path), merged(client(path), tmp_path))
    assert backup is not None
    for file in (path, backup):
        found = file.stat()
        assert (found.st_mode, found.st_uid, found.st_gid) == (
            before.st_mode,
            before.st_uid,
            before.st_gid,
        )
    assert sorted(os.listdir(tmp_path)) == ["config.json", "config.json.before-kernelry"]


@pytest.mark.parametrize("place", ["config.json", "config.json.before-kernelry", "folder"])
def test_no_link_is_followed_for_the_file_its_copy_or_the_folder(
    tmp_path: Path, place: str
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "config.json").write_text("{}", encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    target = Client(home, "folder/config.json", "mcpServers")
    if place == "folder":
        (home / "folder").symlink_to(victim)
    else:
        (home / "folder").mkdir()
        (home / "folder" / "config.json").write_text("{}", encoding="utf-8")
        (home / "folder" / place).unlink(missing_ok=True)
        (home / "folder" / place).symlink_to(victim / "config.json")
    with pytest.raises(ClientConfigError, match=r"(not|Nothing was) changed"):
        write(target, merged(target, tmp_path))
    assert (victim / "config.json").read_text(encoding="utf-8") == "{}"
    assert os.listdir(victim) == ["config.json"]


@pytest.mark.parametrize("kind", ["fifo", "device", "large", "folder"])
def test_what_is_no_small_file_is_neither_read_nor_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            if os.getuid() != 0:
                pytest.skip("only root can make a device")
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
        case "large":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case "folder":
            path.mkdir()
    before = path.lstat()
    with pytest.raises(ClientConfigError, match="Nothing was changed"):
        merged(client(path), tmp_path)
    with pytest.raises(ClientConfigError):
        write(client(path), {"mcpServers": {}})
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
    )
