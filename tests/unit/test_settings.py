"""Settings come from four places, and a mistake in any of them is told."""

from pathlib import Path

import pytest

from kernelry_mcp.settings import Settings, SettingsError


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "kernelry.toml"
    config.write_text("wait = 1\nmax_sessions = 2\ntext_budget = 600\n", encoding="utf-8")
    monkeypatch.setenv("KERNELRY_WAIT", "3")
    monkeypatch.setenv("KERNELRY_MAX_SESSIONS", "4")
    settings = Settings.load({"max_sessions": "5"}, config)
    assert (settings.max_sessions, settings.wait, settings.text_budget) == (5, 3, 600)
    assert settings.on_cancel == "interrupt"


def test_an_unknown_key_of_the_file_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "kernelry.toml"
    config.write_text("wiat = 1\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="unknown key 'wiat'"):
        Settings.load({}, config)


def test_an_unknown_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELRY_WIAT", "1")
    with pytest.raises(SettingsError, match="KERNELRY_WIAT"):
        Settings.load()


@pytest.mark.parametrize(
    "flag",
    [
        {"http": "0.0.0.0:80"},
        {"http": "127.0.0.1"},
        {"wait": "-1"},
        {"wait": "nan"},
        {"toolsets": "nope"},
        {"on_cancel": "x"},
    ],
)
def test_a_value_that_can_not_be_used_names_its_setting(flag: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(flag))):
        Settings.load(dict(flag))
