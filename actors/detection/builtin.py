"""The built-in rules and sequences: files of ``builtin_rules/``, in the order of their alerts."""

from __future__ import annotations

from functools import cache
from importlib import resources

from actors.detection.rulefile import parse_rule
from actors.detection.rules import AnyRule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings

NAMES = (
    "unexpected-shell-spawn",
    "sensitive-file-read",
    "account-file-written",
    "authorized-keys-written",
    "sudoers-written",
    "cron-written",
    "preload-written",
    "unit-written",
    "login-script-written",
    "pam-written",
    "suspicious-port",
    "forged-connection",
    "shell-outbound-connection",
    "first-network-caller",
    "obfuscated-command",
    "shell-on-socket",
    "shell-behind-connection",
    "shell-of-listener",
    "commands-from-outside",
    "calls-left-out",
    "call-flood",
    "reverse-shell",
    "credential-access-execution",
    "rapid-spawning",
    "shell-relay",
    "shell-loop",
)


_FOLDER = resources.files("actors.detection") / "builtin_rules"
# Read now: an agent that has dropped root may not be able to.
_TEXTS = {name: (_FOLDER / f"{name}.toml").read_text() for name in NAMES}


def text_of(name: str) -> str:
    """Return the file of a built-in rule."""
    return _TEXTS[name]


@cache
def builtin_rules() -> tuple[AnyRule, ...]:
    """Return all of them."""
    return tuple(parse_rule(text_of(name).encode(), path=f"{name}.toml") for name in NAMES)


def builtin_set(settings: FilterSettings) -> RuleSet:
    """Return a rule set of the built-in rules alone."""
    return RuleSet(settings, builtin_rules())
