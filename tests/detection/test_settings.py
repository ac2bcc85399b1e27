import pytest
from pydantic import ValidationError

from actors.detection.settings import FilterSettings


def test_defaults_are_the_documented_ones() -> None:
    settings = FilterSettings()
    assert settings.shell_names == ("bash", "sh", "zsh", "fish", "dash")
    assert settings.suspicious_ports == (4444, 1337, 9001, 9999, 6666, 31337, 5555)
    assert settings.noisy_comms == ("code", "cpuUsage", "cargo", "rustc", "make")
    assert settings.ignored_comms == ("cpuUsage.sh",)
    assert " ".join(settings.safe_shell_launchers) == (
        "tmux alacritty kitty sshd sudo su login Hyprland code"
    )
    assert " ".join(settings.safe_file_readers) == (
        "sshd sudo passwd shadow pam bash zsh sh code vim nvim nano"
    )
    assert " ".join(settings.sensitive_files) == (
        "/etc/shadow /etc/passwd /etc/sudoers /etc/sudoers.d /.ssh/id_rsa /.ssh/id_ed25519 "
        "/.ssh/authorized_keys /.bash_history /.zsh_history /root/.ssh"
    )
    assert (settings.correlator_max_events, settings.correlator_max_age_secs) == (20, 30)
    assert (settings.max_processes, settings.open_events) == (16_384, "sensitive")


@pytest.mark.parametrize(
    "wrong",
    [
        {"suspicious_ports": [0]},
        {"suspicious_ports": [65536]},
        {"suspicious_ports": list(range(1, 1002))},
        {"shell_names": [""]},
        {"shell_names": ["x" * 256]},
        {"shell_names": ["x"] * 1001},
        {"shell_names": ["ba\nsh"]},
        {"shell_names": ["ba\u202esh"]},
        {"shell_names": "bash"},
        {"sensitive_files": ["/"]},
        {"correlator_max_events": 4},
        {"correlator_max_age_secs": 0},
        {"max_processes": 2**70},
        {"open_events": "some"},
        {"shel_names": ["bash"]},
    ],
)
def test_impossible_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FilterSettings.model_validate(wrong)


def test_every_field_is_described_and_frozen() -> None:
    assert all(field.description for field in FilterSettings.model_fields.values())
    with pytest.raises(ValidationError):
        FilterSettings().max_processes = 1  # type: ignore[misc] # this is what must fail
