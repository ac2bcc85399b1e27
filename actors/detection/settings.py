"""The ``[filters]`` section of ``lavender.toml``: what is a shell, what is sensitive, what is safe.

Lists follow the rules of ``names.py`` and ``paths.py``. Each field says whether its list detects
or trusts: a list that trusts holds only for executables that root alone can change.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from actors.detection.names import split_purpose


def _without_control_characters(entry: str) -> str:
    if not entry.isprintable():
        raise ValueError("has a control or invisible character; write the plain name")
    return entry


def _not_the_root(entry: str) -> str:
    if not entry.strip("/"):
        raise ValueError("would make every file sensitive; name a file or a directory")
    return entry


def _without_files(entry: str) -> str:
    if split_purpose(entry)[1]:
        raise ValueError("names files, which only safe_file_readers and safe_file_writers can")
    return entry


Text = Annotated[
    str, Field(min_length=1, max_length=255), AfterValidator(_without_control_characters)
]
Name = Annotated[Text, AfterValidator(_without_files)]
Names = Annotated[tuple[Name, ...], Field(max_length=1000, strict=False)]
NamesWithFiles = Annotated[tuple[Text, ...], Field(max_length=1000, strict=False)]
FilePath = Annotated[Text, AfterValidator(_not_the_root)]
FilePaths = Annotated[tuple[FilePath, ...], Field(max_length=1000, strict=False)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Ports = Annotated[tuple[Port, ...], Field(max_length=1000, strict=False)]

_SHELLS = ("bash", "sh", "zsh", "fish", "dash")


class FilterSettings(BaseModel):
    """What detection looks for and whom it believes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    safe_shell_launchers: Names = Field(
        default=(
            *("tmux", "alacritty", "kitty", "sshd", "sudo", "su", "login"),
            *("Hyprland", "code"),
        ),
        description="Trusts: may start a shell; also ends a lineage for sequences.",
    )
    pass_through: Names = Field(
        default=(
            *("env", "find", "xargs", "timeout", "nohup", "setsid", "nice", "ionice", "stdbuf"),
            *("flock", "script", "busybox"),
        ),
        description="Trusts: runs what it is told to, so whoever started it counts as launcher.",
    )
    ignored_comms: Names = Field(
        default=("cpuUsage.sh",),
        description="Trusts: raises no alert; the kernel delivers no opens and connections of it.",
    )
    safe_file_readers: NamesWithFiles = Field(
        default=(
            *("sshd", "sudo", "passwd", "shadow", "pam", "bash", "zsh", "sh"),
            *("code", "vim", "nvim", "nano"),
        ),
        description="Trusts: may read sensitive files; `passwd,chage:/etc/shadow` only these.",
    )
    safe_file_writers: NamesWithFiles = Field(
        default=(),
        description="Trusts: may write guarded files, written as in safe_file_readers; "
        "what a program without files starts may, too.",
    )
    shell_names: Names = Field(
        default=_SHELLS,
        description="Detects: is a shell. Also trusts: such a shell may start another shell.",
    )
    interpreters: Names = Field(
        default=(*_SHELLS, "python*", "perl*", "ruby*", "node", "php*", "lua*"),
        description="Detects: runs code from its arguments, which are searched for obfuscation.",
    )
    sensitive_files: FilePaths = Field(
        default=(
            *("/etc/shadow", "/etc/passwd", "/etc/sudoers", "/etc/sudoers.d"),
            *("/.ssh/id_rsa", "/.ssh/id_ed25519", "/.ssh/authorized_keys"),
            *("/.bash_history", "/.zsh_history", "/root/.ssh"),
        ),
        description="Files, and directories with all beneath them, that few programs should read.",
    )
    guarded_files: FilePaths = Field(
        default=(
            *("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"),
            *("/etc/sudoers", "/etc/sudoers.d", "/etc/pam.d", "/etc/ld.so.preload"),
            *("/.ssh/authorized_keys", "/.ssh/authorized_keys2"),
            *("/etc/crontab", "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily"),
            *("/etc/cron.weekly", "/etc/cron.monthly", "/var/spool/cron"),
            *("/var/spool/cron/crontabs", "/etc/systemd/system", "/usr/lib/systemd/system"),
            *("/lib/systemd/system", "/etc/init.d", "/etc/rc.local"),
            *("/etc/profile", "/etc/profile.d", "/etc/bash.bashrc"),
        ),
        description="Files and directories whose opens to write or create the kernel delivers too.",
    )
    suspicious_ports: Ports = Field(
        default=(4444, 1337, 9001, 9999, 6666, 31337, 5555),
        description="Destination ports that alone are worth an alert.",
    )
    noisy_comms: Names = Field(
        default=("code", "cpuUsage", "cargo", "rustc", "make"),
        description="Trusts: executions that do not count as rapid spawning.",
    )
    safe_command_launchers: Names = Field(
        default=(),
        description="Trusts: may start an interpreter with any arguments.",
    )
    known_network_callers: Names = Field(
        default=(),
        description="Trusts: its first connection is no news, nor part of a reverse shell.",
    )
    correlator_max_events: int = Field(
        default=20,
        ge=5,
        le=10_000,
        description="Events remembered per process for sequences; five is the longest sequence.",
    )
    correlator_max_age_secs: int = Field(
        default=30,
        ge=1,
        le=3600,
        description="Seconds within which the steps of a sequence belong together.",
    )
    max_processes: int = Field(
        default=16_384,
        ge=64,
        le=1_048_576,
        description="Processes remembered at most, about 0.4 KB each.",
    )
    open_events: Literal["sensitive", "written", "all"] = Field(
        default="sensitive",
        description="Which file opens the kernel delivers; "
        "written: sensitive ones, and every one to write or create.",
    )
