"""Log sources: which of Lavender's events stand for the records that a rule is written for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sigma.rule.logsource import SigmaLogSource

from actors.detection.complaints import did_you_mean
from actors.detection.conditions import EventType, Test
from services.detection.sigma import auditd
from services.detection.sigma.fields import Choice, Field, Lookup, Unserved, View
from services.detection.sigma.refusals import Invalid, Unsupported

_USER: dict[str, Lookup] = {
    "User": Field("user"),
    "ProcessId": Field("pid", "number", present=True, most=(1 << 31) - 1),
    "Computer": Field("host"),
    "ComputerName": Field("host"),
    "Hostname": Field("host"),
}
_PROCESS: dict[str, Lookup] = {
    **_USER,
    "Image": Field("exe"),
    "CommandLine": Field("command_line"),
    "ParentImage": Field("parent.exe"),
    "ParentCommandLine": Field("parent.command_line"),
    "ParentUser": Field("parent.user"),
}
_CREATION: dict[str, Lookup] = {
    **_PROCESS,
    "Image": Field("exe", present=True),
    "CurrentDirectory": Field("cwd"),
    "LogonId": Field("login_uid", "number", present=True),
}
_FILE: dict[str, Lookup] = {**_PROCESS, "TargetFilename": Field("path", present=True)}
_CONNECTION: dict[str, Lookup] = {
    **_PROCESS,
    "DestinationIp": Field("dest_ip", "address", present=True),
    "DestinationPort": Field("dest_port", "number", present=True, most=65_535),
    "DestinationIsIpv6": Choice(
        {
            "true": Test("family", "equals", ("ipv6",)),
            "false": Test("family", "equals", ("ipv4",)),
        },
        other="DestinationIsIpv6 is true or false, not {}",
    ),
    "Initiated": Choice(
        {"true": True}, other="Initiated {}: Lavender sees connections going out, not coming in"
    ),
}

_LACKING = {
    "DestinationHostname": "Lavender's connect events carry no host names",
    "SourceHostname": "Lavender's connect events carry no host names",
    "SourceIp": "Lavender's connect events carry no source address",
    "SourcePort": "Lavender's connect events carry no source port",
    "Protocol": "Lavender's connect events do not say the protocol",
    "Hashes": "Lavender hashes no files",
    "ParentProcessId": "Lavender's events carry no id of the parent",
}
_WINDOWS = frozenset(
    {
        *("OriginalFileName", "Description", "Product", "Company", "FileVersion", "Signed"),
        *("IntegrityLevel", "ParentIntegrityLevel", "LogonGuid", "Signature", "SignatureStatus"),
    }
)


_NEAR = 0.85
"""How like a word that Lavender knows must be another, to be taken for a slip."""


def _missing(event: EventType, known: Mapping[str, Lookup]) -> Any:
    def lookup(name: str) -> Lookup:
        near = did_you_mean(name, known, cutoff=_NEAR)
        if near and name not in _LACKING:
            return Unserved(f"field {name}: there is no such field{near}", misspelt=True)
        why = _LACKING.get(name) or (
            "a Windows field, which nothing on Linux has"
            if name in _WINDOWS
            else f"Lavender's {event} events have no such field"
        )
        return Unserved(f"field {name}: {why}")

    return lookup


_SUCCESS = Test("error", "equals", (0,))
_WRITTEN = Test("access", "equals", ("write", "create"))
_INTERNET = Test("family", "equals", ("ipv4", "ipv6"))

_CATEGORIES = {
    "process_creation": View("exec", (_SUCCESS,), _CREATION, _missing("exec", _CREATION)),
    "file_event": View("open", (_SUCCESS, _WRITTEN), _FILE, _missing("open", _FILE)),
    "network_connection": View(
        "connect", (_INTERNET,), _CONNECTION, _missing("connect", _CONNECTION)
    ),
}


def views(source: SigmaLogSource) -> tuple[View, ...]:
    """Return what can stand for the records of a log source.

    Raises:
        Unsupported: Nothing can.
    """
    if source.product not in {None, "linux"}:
        raise Unsupported(f"logsource product {source.product}: Lavender watches Linux")
    if source.category is not None:
        near = did_you_mean(source.category, _CATEGORIES, cutoff=_NEAR)
        if near and source.category not in _CATEGORIES:
            raise Invalid(f"logsource category {source.category}: there is no such category{near}")
        if source.category not in _CATEGORIES:
            raise Unsupported(
                f"logsource category {source.category}: Lavender has no such event, only"
                " process_creation, file_event and network_connection"
            )
        if source.service not in {None, "auditd", "sysmon"}:
            raise Unsupported(f"logsource service {source.service}: Lavender does not read it")
        return (_CATEGORIES[source.category],)
    if source.service is None:
        raise Unsupported(
            f"logsource product {source.product} without category or service:"
            " Lavender does not read logs"
        )
    if source.service != "auditd":
        raise Unsupported(f"logsource service {source.service}: Lavender does not read this log")
    return auditd.VIEWS
