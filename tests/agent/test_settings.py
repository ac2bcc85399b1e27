from typing import Any

import pytest
import tomli
from pydantic import ValidationError

from actors.agent.default_topology import DEFAULT_TOPOLOGY
from actors.agent.settings import AgentSettings, ResponseSettings, Settings
from tests.agent.cast import ROOT


def test_the_default_topology_is_the_shipped_one() -> None:
    shipped = tomli.loads((ROOT / "lavender.toml").read_text())
    assert shipped["topology"] == DEFAULT_TOPOLOGY


def test_nothing_is_killed_unless_somebody_said_so() -> None:
    assert Settings().response.dry_run
    shipped = tomli.loads((ROOT / "lavender.toml").read_text())
    assert shipped["response"]["dry_run"] is True


def test_the_defaults_are_themselves_valid() -> None:
    assert Settings.model_validate(Settings().model_dump()) == Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().response.dry_run = False  # type: ignore[misc] # that is the point


@pytest.mark.parametrize("section", [AgentSettings, ResponseSettings])
def test_every_key_is_described(section: Any) -> None:
    assert all(field.description for field in section.model_fields.values())


@pytest.mark.parametrize("token", ["dev", "web-7", "Ünïcode", "a_b", "x" * 64, "a\u00b7b"])
def test_a_subject_token_may_be_any_one_word(token: str) -> None:
    assert AgentSettings(agent_id=token).agent_id == token


@pytest.mark.parametrize(
    "token",
    [
        *("a.b", "*", ">", "a b", "a\u00a0b", "a\n", "\x00", ""),
        *("/etc", "a/b", "a\\b", "a\x85b", "a\x9bb", "a\u202eb", "a\u200bb"),
    ],
)
def test_a_subject_token_is_one_word(token: str) -> None:
    with pytest.raises(ValidationError):
        AgentSettings(agent_id=token)


def test_a_subject_prefix_may_have_several_words() -> None:
    assert AgentSettings(telemetry_subject_prefix="a.b.c").telemetry_subject_prefix == "a.b.c"
