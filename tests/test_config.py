import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import config
from actors.agent.settings import Settings
from services.settings import Settings as ServiceSettings

ROOT = Path(__file__).resolve().parent.parent


def load(folder: Path, **environment: str) -> Settings:
    settings, _ = config.load(Settings, start=folder, program=folder, environment=environment)
    return settings


def complaint(folder: Path, text: str = "", **environment: str) -> str:
    (folder / "lavender.toml").write_text(text)
    with pytest.raises(config.ConfigError) as caught:
        load(folder, **environment)
    return str(caught.value)


# Where the file is


def test_a_file_named_by_the_environment_goes_before_one_nearby(tmp_path: Path) -> None:
    (tmp_path / "lavender.toml").write_text("[agent]\nagent_id = 'near'")
    named = tmp_path / "other.toml"
    named.write_text("[agent]\nagent_id = 'named'")
    assert load(tmp_path, LAVENDER_CONFIG=str(named)).agent.agent_id == "named"


def test_a_file_chosen_on_the_command_line_goes_before_all(tmp_path: Path) -> None:
    chosen, named = tmp_path / "chosen.toml", tmp_path / "named.toml"
    chosen.touch()
    named.touch()
    found = config.find_file(
        {"LAVENDER_CONFIG": str(named)}, start=tmp_path, program=tmp_path, chosen=chosen
    )
    assert found == chosen


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lavender.toml").touch()
    with pytest.raises(config.ConfigError, match=r"LAVENDER_CONFIG names /no/such\.toml"):
        load(tmp_path, LAVENDER_CONFIG="/no/such.toml")
    with pytest.raises(config.ConfigError, match=r"--config names /no/such\.toml"):
        config.find_file({}, start=tmp_path, program=tmp_path, chosen=Path("/no/such.toml"))


def test_an_empty_variable_names_no_file(tmp_path: Path) -> None:
    assert load(tmp_path, LAVENDER_CONFIG="").agent.agent_id == "dev-agent-1"


def test_the_nearest_file_upward_is_taken(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "lavender.toml").touch()
    (tmp_path / "a" / "b" / "lavender.toml").touch()
    assert config.find_file({}, start=deep, program=Path("/")) == deep.parent / "lavender.toml"
    found = config.find_file({}, start=tmp_path / "a", program=Path("/"))
    assert found == tmp_path / "lavender.toml"


def test_without_one_upward_the_programs_own_folder_is_searched(tmp_path: Path) -> None:
    program = tmp_path / "opt" / "lavender" / "agent"
    program.mkdir(parents=True)
    (tmp_path / "opt" / "lavender.toml").touch()
    start = tmp_path / "home"
    start.mkdir()
    found = config.find_file({}, start=start, program=program)
    assert found == tmp_path / "opt" / "lavender.toml"


def test_a_folder_of_that_name_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "lavender.toml").mkdir()
    assert config.find_file({}, start=tmp_path, program=tmp_path) is None


def test_a_folder_that_may_not_be_looked_into_is_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_file(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", is_file)
    assert config.find_file({}, start=tmp_path, program=tmp_path) is None


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    settings, source = config.load(Settings, start=tmp_path, program=tmp_path, environment={})
    assert source.path is None
    assert str(source) == "built-in defaults"
    assert settings == Settings()


def test_the_shipped_file_is_valid() -> None:
    settings, source = config.load(
        Settings, start=Path("/"), program=ROOT, chosen=ROOT / "lavender.toml", environment={}
    )
    assert str(source) == str(ROOT / "lavender.toml")
    assert settings.response.dry_run
    config.load(
        ServiceSettings,
        start=Path("/"),
        program=ROOT,
        chosen=ROOT / "lavender.toml",
        environment={},
    )


def test_each_program_validates_its_own_sections(tmp_path: Path) -> None:
    file = tmp_path / "lavender.toml"
    file.write_text('[ingest]\nagent_events_per_sec = "many"\n[response]\nkill_threshold = 7\n')
    settings, _ = config.load(Settings, start=tmp_path, program=tmp_path, environment={})
    assert settings.response.kill_threshold == 7
    with pytest.raises(config.ConfigError, match=r"ingest\.agent_events_per_sec = 'many'"):
        config.load(ServiceSettings, start=tmp_path, program=tmp_path, environment={})


# What the environment overrides


@pytest.mark.parametrize(
    ("variable", "text", "section", "key", "value"),
    [
        ("AGENT__AGENT_ID", "web-7", "agent", "agent_id", "web-7"),
        ("AGENT__AGENT_ID", '"42"', "agent", "agent_id", "42"),
        ("AGENT__HEARTBEAT_INTERVAL_SECS", "2.5", "agent", "heartbeat_interval_secs", 2.5),
        ("AGENT__NATS_URL", "tls://bus:4222", "agent", "nats_url", "tls://bus:4222"),
        ("RESPONSE__DRY_RUN", "false", "response", "dry_run", False),
        ("RESPONSE__KILL_THRESHOLD", "20", "response", "kill_threshold", 20),
        ("RESPONSE__PROTECTED_COMMS", '["a", "b"]', "response", "protected_comms", ("a", "b")),
        ("FILTERS__SUSPICIOUS_PORTS", "[1, 2]", "filters", "suspicious_ports", (1, 2)),
        ("FILTERS__OPEN_EVENTS", "all", "filters", "open_events", "all"),
    ],
)
def test_a_variable_overrides_a_key(  # noqa: PLR0917 - one column each
    tmp_path: Path, variable: str, text: str, section: str, key: str, value: Any
) -> None:
    (tmp_path / "lavender.toml").write_text("[response]\nkill_threshold = 7\n")
    settings = load(tmp_path, **{f"LAVENDER_{variable}": text})
    assert getattr(getattr(settings, section), key) == value
    assert settings.response.kill_threshold == (20 if key == "kill_threshold" else 7)


def test_other_variables_are_not_ours(tmp_path: Path) -> None:
    others = {"TESTS_REQUIRE_KERNEL": "1", "LAVENDERX__Y": "2", "AGENT__AGENT_ID": "x"}
    assert load(tmp_path, **others) == Settings()


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        ("LAVENDER_AGNET__AGENT_ID", "did you mean LAVENDER_AGENT__AGENT_ID?"),
        ("LAVENDER_RESPONSE_DRY_RUN", "did you mean LAVENDER_RESPONSE__DRY_RUN?"),
        ("LAVENDER_CONFG", "did you mean LAVENDER_CONFIG?"),
        ("LAVENDER_QQQ", "the form is LAVENDER_<SECTION>__<KEY>"),
    ],
)
def test_a_variable_that_names_no_key_is_an_error(
    tmp_path: Path, variable: str, remedy: str
) -> None:
    assert complaint(tmp_path, **{variable: "x"}) == (
        f"environment: {variable} names no key; {remedy}"
    )


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *[("RESPONSE__DRY_RUN", text) for text in ("no", "off", "0", "1", '"true"', "True", "")],
        *[("RESPONSE__KILL_THRESHOLD", text) for text in ('"200"', "200.0", "true")],
        *[("AGENT__HEARTBEAT_INTERVAL_SECS", text) for text in ('"15"', "true")],
        *[("FILTERS__SUSPICIOUS_PORTS", text) for text in ('["4444"]', "[true]", "4444")],
        *[("RULES__FOLDER", text) for text in ("1", "true")],
        ("AGENT__AGENT_ID", "7"),
    ],
)
def test_a_value_of_another_type_is_refused_not_converted(
    tmp_path: Path, key: str, text: str
) -> None:
    assert f"LAVENDER_{key}: " in complaint(tmp_path, **{f"LAVENDER_{key}": text})


def test_a_whole_number_of_seconds_is_one(tmp_path: Path) -> None:
    settings = load(tmp_path, LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS="20")
    assert settings.agent.heartbeat_interval_secs == 20


def test_a_variable_of_no_key_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    text = complaint(tmp_path, LAVENDER_RESPONSE__DRYRUN="false")
    assert text.startswith("environment: LAVENDER_RESPONSE__DRYRUN: response.dryrun = False")
    assert "did you mean dry_run?" in text


def test_a_variable_too_deep_to_have_an_effect_is_an_error(tmp_path: Path) -> None:
    text = complaint(tmp_path, LAVENDER_TOPOLOGY__AGENT__DRAIN_SECS="3")
    assert "LAVENDER_TOPOLOGY__AGENT__DRAIN_SECS" in text


def test_a_wrong_value_of_a_variable_names_the_variable(tmp_path: Path) -> None:
    text = complaint(tmp_path, LAVENDER_RESPONSE__KILL_THRESHOLD="many")
    assert text == (
        "environment: LAVENDER_RESPONSE__KILL_THRESHOLD: response.kill_threshold = 'many': "
        "should be a valid integer"
    )


def test_a_variable_of_two_lines_is_text_and_no_second_key(tmp_path: Path) -> None:
    text = complaint(tmp_path, LAVENDER_RESPONSE__DRY_RUN="false\nkill_threshold = 1")
    assert r"response.dry_run = 'false\nkill_threshold = 1'" in text


def test_a_variable_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    assert "agent.agent_id" in complaint(tmp_path, LAVENDER_AGENT__AGENT_ID="a\udcff")


@given(text=st.text())
def test_any_text_of_a_variable_is_taken_or_refused(text: str) -> None:
    merged = config.apply_environment({}, {"LAVENDER_AGENT__AGENT_ID": text}, model=Settings)
    assert list(merged["agent"]) == ["agent_id"]


def test_the_processes_own_environment_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("LAVENDER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAVENDER_AGENT__TENANT_ID", "acme")
    settings, _ = config.load(Settings, start=tmp_path, program=tmp_path)
    assert settings.agent.tenant_id == "acme"


# What is refused, and how


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("[agnet]\n", "agnet = {}", "did you mean agent?"),
        ("[nothing_like_it]\n", "nothing_like_it = {}", "there is no such key; remove it"),
        ("[agent]\nagentid = 'x'", "agent.agentid = 'x'", "did you mean agent_id?"),
        ("[agent]\nqqq = 1", "agent.qqq = 1", "there is no such key; remove it"),
        ("agent = 5", "agent = 5", "should be a valid dictionary"),
        ("[agent]\nagent_id = 5", "agent.agent_id = 5", "should be a valid string"),
        ("[response]\nkill_threshold = 0", "response.kill_threshold = 0", "greater than or equal"),
        ("[response]\nkill_threshold = 'x'", "response.kill_threshold = 'x'", "a valid integer"),
        ("[response]\ndry_run = 'maybe'", "response.dry_run = 'maybe'", "a valid boolean"),
        ("[response]\nprotected_comms = 'sshd'", "response.protected_comms = 'sshd'", "tuple"),
        (
            "[filters]\nopen_events = 'some'",
            "filters.open_events = 'some'",
            "'sensitive', 'written' or 'all'",
        ),
        ("[filters]\nsuspicious_ports = [1, 99999]", "suspicious_ports.1 = 99999", "65535"),
        ("[filters]\nsensitive_files = ['/']", "sensitive_files.0 = '/'", "every file sensitive"),
        ("[agent]\nheartbeat_interval_secs = nan", "heartbeat_interval_secs = nan", "than or"),
        ("[agent]\nheartbeat_interval_secs = inf", "heartbeat_interval_secs = inf", "than or"),
        ("[agent]\nheartbeat_interval_secs = -1", "heartbeat_interval_secs = -1", "than or"),
        ("[agent]\nnats_url = 'http://x'", "agent.nats_url = 'http://x'", "should match"),
        ("[filters]\ncorrelator_max_events = 4", "correlator_max_events = 4", "greater than"),
    ],
)
def test_what_is_wrong_is_named_by_file_key_value_and_remedy(
    tmp_path: Path, text: str, key: str, remedy: str
) -> None:
    message = complaint(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'lavender.toml'}: ")
    assert f"{key}: " in message
    assert remedy in message
    assert "\n" not in message


def test_all_problems_come_in_one_message(tmp_path: Path) -> None:
    message = complaint(tmp_path, "[agent]\nagentid = 'x'\n[response]\nkill_threshold = 0")
    assert len(message.splitlines()) == 2


def test_a_long_value_is_shown_in_part(tmp_path: Path) -> None:
    message = complaint(tmp_path, f"[response]\nkill_threshold = '{'x' * 500}'")
    assert "xxx...: should be" in message
    assert len(message) < 400


@pytest.mark.parametrize("token", ["a.b", "*", "a>", "a b", "", "a\tb", "a\x7fb", "x" * 65])
@pytest.mark.parametrize("key", ["agent_id", "tenant_id"])
def test_what_is_no_subject_token_is_refused(tmp_path: Path, key: str, token: str) -> None:
    shown = token.replace("\t", "\\t").replace("\x7f", "\\u007F")
    assert f"agent.{key}" in complaint(tmp_path, f'[agent]\n{key} = "{shown}"')


@pytest.mark.parametrize("prefix", ["a..b", ".a", "a.", "a.*", "a.>", "a b", ""])
def test_what_is_no_subject_prefix_is_refused(tmp_path: Path, prefix: str) -> None:
    text = f"[agent]\ntelemetry_subject_prefix = '{prefix}'"
    assert "agent.telemetry_subject_prefix" in complaint(tmp_path, text)


@pytest.mark.parametrize(
    "raw", [b"[agent", b"a = ", b"\xff\xfe", b"a = 1\na = 2", b"[a]\n[a]\n", b"x = " + b"[" * 9999]
)
def test_what_is_not_toml_is_refused(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "lavender.toml"
    file.write_bytes(raw)
    with pytest.raises(config.ConfigError, match=r"lavender\.toml: not valid TOML"):
        config.read_file(file)


def test_a_file_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "lavender.toml"
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(config.ConfigError, match="larger than 1048576 bytes"):
        config.read_file(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="Is a directory"):
        config.read_file(tmp_path)
