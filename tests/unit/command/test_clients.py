"""What `kernelry client-config` does to a client's own file."""

import json
from pathlib import Path

import pytest

from kernelry_mcp.command.clients import Client, ClientConfigError, merged, write


def client(path: Path, *, typed: bool = False) -> Client:
    return Client(path, "servers" if typed else "mcpServers", typed=typed)


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
