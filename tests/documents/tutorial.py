"""The newcomer's hour: every command of docs/TUTORIAL.md, in its order, and what is seen then."""

from __future__ import annotations

from tests.documents.scene import Hear, Run, Serve, Step, Stop

_RULE = "/etc/lavender/rules/runs-from-tmp.toml"
_AGENT = Serve("sudo lavender-agent --output pretty", until="Lavender is watching", name="agent")
_INSTALL = "sudo make install"
# Others' doing may raise alerts meanwhile: the kernel is the whole machine's.
_INCIDENT = (
    "timeout 30 sh -c 'while :; do for id in $(lavender detection incidents | cut -b -36); do"
    " lavender detection incidents $id | grep -q T1003 && echo $id && exit; done; done'"
)
_LEFT = (
    "ls -d /usr/local/bin/lavender* /usr/local/lib/lavender /etc/lavender /var/lib/lavender*"
    " /var/cache/lavender /sys/fs/bpf/lavender 2>/dev/null"
)
KILLED = -9

STEPS: tuple[Step, ...] = (
    # Install
    Run(_INSTALL, says="installed"),
    Run("lavender --version", says="Lavender 0."),
    Run("sudo lavender-agent --check", says="fields from BTF"),
    # Watch
    Serve("lavender stack --data ./data", until="backend is running", name="stack"),
    _AGENT,
    # Trigger an alert
    Run("sudo cat /etc/shadow > /dev/null"),
    Hear("agent", says="T1003 [Sensitive file read]"),
    # Find it in the store
    Run("export LAVENDER_STORE__URL=sqlite:data/lavender.db"),
    Run("lavender detection incidents --since 1h", says="score", within_secs=20),
    Run("lavender detection incidents ID", fill={"ID": _INCIDENT}, says="T1003"),
    # Write a rule
    Run("mkdir -p /tmp/tutorial"),
    Run("cp /usr/bin/sleep /tmp/tutorial/tool"),
    Run("/tmp/tutorial/tool 0.1"),
    Run("mkdir -p /etc/lavender/rules", ours=True),
    Run(f"python -m tests.documents.extract docs/TUTORIAL.md toml 0 > {_RULE}", ours=True),
    Run("lavender detection rules check /etc/lavender/rules"),
    Run("lavender detection rules test /etc/lavender/rules", says="2 tests passed, 0 failed"),
    Hear("agent", says="rules have changed"),
    # Back-test it
    Run(f"lavender detection backtest {_RULE} --since 1h", says="tool was started from"),
    # Have a process killed
    Run("sudo sed -i 's/^dry_run = true/dry_run = false/' /etc/lavender/lavender.toml"),
    Stop("agent"),
    _AGENT,
    Run("/tmp/tutorial/tool 60", code=KILLED),
    Hear("agent", says="killed"),
    # Read the ledger
    Stop("agent"),
    Run("lavender ledger --since 1h", says="  balanced", within_secs=20),
    # Upgrade and uninstall
    Run(_INSTALL, says="kept /etc/lavender/lavender.toml"),
    _AGENT,
    Stop("agent"),
    Stop("stack"),
    Run("sudo make uninstall", says="removed"),
    Run(_LEFT, code=2, ours=True),
    Run("rm -rf data /tmp/tutorial ~/.local/state/lavender-stack"),
)
