"""Rule files: Lavender's own rules and sequences, one to a file, as TOML that people write.

What a file looks like is told by the built-in ones in ``builtin_rules/`` and by ``docs/RULES.md``.
A file is data: nothing in it is ever executed, and whatever is wrong with it is one `RuleFileError`
that names file, line and reason.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from actors.detection.alerts import check_detail
from actors.detection.compiler import Compiler
from actors.detection.complaints import complaint
from actors.detection.condition_text import parse_condition
from actors.detection.conditions import (
    VALUES_MAX,
    AllOf,
    Condition,
    EventType,
    Not,
    Op,
    RuleError,
    Test,
    Value,
    all_of,
    any_of,
    tests_of,
)
from actors.detection.events import Level
from actors.detection.rules import (
    AnyRule,
    Exclusion,
    Id,
    Match,
    Rule,
    RuleTest,
    Scope,
    Sequence,
    Status,
    Step,
)
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.text import fold

SIZE_MAX_BYTES = 1 << 20
_TESTS_MAX = 200
_EXECUTABLES = ("exe", "parent.exe", "launcher.exe")
_WHOLE_PATHS = ("equals", "startswith", "glob")
_MANY_VALUED = ("argv", "program", "launcher", "initiator", "lineage", "access")
_FILTERS = FilterSettings(correlator_max_events=10_000)
"""Whose lists are there whatever is in them; how long a sequence may be is told later."""
_DEEP_KEY = re.compile(r"(?<![\w\"'.-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+){64}")
"""tomllib takes time in the square of a key's parts."""
_AS_KEY = r"""(?:^|[{{,\[.])[ \t]*["']?({})(?:\|[\w|]*)?["']?[ \t]*[\].=]"""
_LINE = re.compile(r"\(at line (\d+), column \d+\)")

_Table = TypeVar("_Table")
_Made = TypeVar("_Made")
_Key: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
_Reference: TypeAlias = Annotated[str, Meta(max_length=1000)]
_Text: TypeAlias = Annotated[str, Meta(max_length=8192)]
_Values: TypeAlias = Value | list[Value]
_Selection: TypeAlias = dict[_Key, _Values] | list[dict[_Key, _Values]]
_Selections: TypeAlias = Annotated[dict[_Key, _Selection], Meta(max_length=256)]

_OPS: dict[str, Op] = {
    **{op: op for op in ("contains", "startswith", "endswith", "glob", "re", "cidr")},
    **{op: op for op in ("lt", "lte", "gt", "gte", "exists", "same_as", "listed", "trusted")},
}


class RuleFileError(ValueError):
    """A rule file cannot be used.

    Args:
        path: Which file.
        line: Where, 0 when it is not known.
        reason: What is wrong and what would be right.
    """

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}" if line else f"{path}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


def unexpected(error: Exception) -> str:
    """Return the reason of a file at which a reader failed in a way that none foresaw."""
    return f"cannot be used: {type(error).__name__}: {error}"[:400]


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A table of a file; a word too many is an error."""


class ExclusionTable(Strict, kw_only=True):
    """``[[exclusions]]``."""

    owner: _Text
    reason: _Text
    expires: Annotated[str, Meta(pattern=r"^(\d{4}-\d{2}-\d{2})?\Z")] = ""
    match: dict[_Key, _Values]


class _Test(Strict, kw_only=True):
    name: _Text
    matches: bool = True
    events: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1, max_length=1000)]


class _Step(Strict, kw_only=True):
    event: EventType
    condition: _Text = ""
    selections: _Selections
    by: Annotated[tuple[str, ...], Meta(max_length=8)] | None = None


class _Sequence(Strict, kw_only=True):
    steps: Annotated[tuple[str, ...], Meta(min_length=1, max_length=16)]
    scope: Scope = "lineage"
    ordered: bool = True
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    distinct: str = ""
    by: Annotated[tuple[str, ...], Meta(max_length=8)] = ()
    within_secs: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    until: str = ""


class _File(Strict, kw_only=True):
    id: Id
    title: Annotated[str, Meta(min_length=1, max_length=1000)]
    label: Annotated[str, Meta(min_length=1, max_length=200)] = ""
    description: _Text = ""
    author: Annotated[str, Meta(max_length=1000)] = ""
    references: Annotated[tuple[_Reference, ...], Meta(max_length=32)] = ()
    level: Level = "medium"
    points: Annotated[int, Meta(ge=0, le=1000)] = 0
    techniques: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^T\d{4}(\.\d{3})?\Z")], ...], Meta(max_length=32)
    ] = ()
    status: Status = "active"
    detail: Annotated[str, Meta(max_length=500)] = ""
    event: EventType | None = None
    condition: _Text = ""
    selections: _Selections = {}
    sequence: _Sequence | None = None
    steps: Annotated[dict[str, _Step], Meta(max_length=32)] = {}
    exclusions: Annotated[tuple[ExclusionTable, ...], Meta(max_length=200)] = ()
    tests: Annotated[tuple[_Test, ...], Meta(max_length=_TESTS_MAX)] = ()


def parse_rule(raw: bytes, *, path: str) -> AnyRule:
    """Make a rule of the content of a file.

    Raises:
        RuleFileError: It cannot be used.
    """
    return parse_toml(raw, _File, _checked_rule, path=path)


def _checked_rule(file: _File) -> AnyRule:
    rule = _rule(file)
    _check_compiles(rule)
    return rule


def parse_toml(
    raw: bytes, model: type[_Table], make: Callable[[_Table], _Made], *, path: str
) -> _Made:
    """Make something of the content of a file.

    Args:
        raw: The content.
        model: What the file looks like.
        make: Makes it; a `RuleError` is a problem of the file.
        path: Which file, for the error.

    Raises:
        RuleFileError: It cannot be used.
    """
    if len(raw) > SIZE_MAX_BYTES:
        raise RuleFileError(path, 0, f"is larger than {SIZE_MAX_BYTES >> 20} MiB, the most allowed")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RuleFileError(path, line, "is not UTF-8") from error
    if deep := _DEEP_KEY.search(text):
        line = text.count("\n", 0, deep.start()) + 1
        raise RuleFileError(path, line, "a key has too many parts")
    try:
        return make(msgspec.convert(tomllib.loads(text), model))
    except tomllib.TOMLDecodeError as error:
        where = _LINE.search(str(error))
        line = int(where[1]) if where else text.count("\n") + 1
        raise RuleFileError(path, line, str(error)) from error
    except RecursionError as error:
        raise RuleFileError(path, 0, "is nested too deeply") from error
    except msgspec.ValidationError as error:
        keys, reason = complaint(error, model)
        raise RuleFileError(path, _line_of(text, keys), reason) from error
    except RuleError as error:
        key = str(error).partition(": ")[0]
        name = key.partition("|")[0]
        line = _line_of(text, [key]) or _line_of(text, [name]) or _line_of(text, name.split("."))
        raise RuleFileError(path, line, str(error)) from error
    except ValueError as error:  # a number with thousands of digits
        raise RuleFileError(path, 0, f"cannot be read: {error}") from error
    except Exception as error:  # whatever a file holds is that file's problem
        raise RuleFileError(path, 0, unexpected(error)) from error


def _line_of(text: str, keys: Iterable[str]) -> int:
    """The line on which the last of these keys stands, each sought behind the one before; or 0."""
    position = 0
    line = 0
    for key in keys:
        found = re.compile(_AS_KEY.format(re.escape(key)), re.MULTILINE).search(text, position)
        if found is not None:
            position = found.start(1)
            line = text.count("\n", 0, position) + 1
    return line


def _check_compiles(rule: AnyRule) -> None:
    """Refuse what the engine will refuse, with the key that is to blame where one test is."""
    compiler = Compiler(_FILTERS)
    steps = rule.steps if isinstance(rule, Sequence) else ()
    until = rule.until if isinstance(rule, Sequence) else ()
    own = rule.matches if isinstance(rule, Rule) else ()
    matches = [*own, *until, *(match for step in steps for match in step.matches)]
    unless = [
        Match(event, each.when)
        for event in {match.event for match in matches}
        for each in rule.exclusions
    ]
    for match in (*matches, *unless):
        for test in tests_of(match.when):
            try:
                compiler.check(test, match.event)
            except RuleError as error:
                key = test.field if test.op == "equals" else f"{test.field}|{test.op}"
                raise RuleError(f"{key}: {str(error).removeprefix(f'{test.field}: ')}") from error
    try:
        RuleSet(_FILTERS, [rule])
    except RuleError as error:
        what = "sequence" if isinstance(rule, Sequence) else "condition"
        raise RuleError(f"{what}: {str(error).removeprefix(f'{rule.id}: ')}") from error


def _rule(file: _File) -> AnyRule:
    described: dict[str, Any] = {
        name: getattr(file, name)
        for name in (
            *("id", "title", "description", "author", "references"),
            *("level", "points", "techniques", "status"),
        )
    }
    described["label"] = file.label or file.title
    described["exclusions"] = tuple(exclusion_of(each) for each in file.exclusions)
    described["tests"] = tuple(RuleTest(**msgspec.structs.asdict(each)) for each in file.tests)
    if file.sequence is not None:
        if file.event or file.condition or file.selections or file.detail:
            raise RuleError("sequence: has steps, and no event, condition, selections or detail")
        return _sequence(file.sequence, file.steps, described)
    if file.event is None:
        raise RuleError("event: say which event the rule is about: exec, open or connect")
    if file.steps:
        raise RuleError("steps: belong to a sequence; write [sequence]")
    check_detail(file.detail)
    when = _condition(file.condition, file.selections)
    return Rule(**described, matches=(Match(file.event, when),), detail=file.detail)


def _sequence(sequence: _Sequence, steps: dict[str, _Step], described: dict[str, Any]) -> Sequence:
    named = {*sequence.steps, *([sequence.until] if sequence.until else ())}
    for name in sorted(named - steps.keys()):
        raise RuleError(f"steps: there is no [steps.{name}]")
    for name in sorted(steps.keys() - named):
        raise RuleError(f"steps.{name}: is not used by the sequence")
    matches = {
        name: Match(step.event, _condition(step.condition, step.selections))
        for name, step in steps.items()
    }
    made = []
    for name in sequence.steps:
        by = steps[name].by
        made.append(Step((matches[name],), sequence.by if by is None else by))
    return Sequence(
        **described,
        steps=tuple(made),
        scope=sequence.scope,
        ordered=sequence.ordered,
        count=sequence.count,
        distinct=sequence.distinct,
        window_secs=sequence.within_secs,
        until=(matches[sequence.until],) if sequence.until else (),
    )


def exclusion_of(exclusion: ExclusionTable) -> Exclusion:
    """Return the exclusion that a table means.

    Raises:
        RuleError: It cannot be used.
    """
    if not exclusion.reason.strip() or not exclusion.owner.strip():
        raise RuleError("exclusions: needs an owner and a reason")
    return Exclusion(
        when=_all(exclusion.match),
        owner=exclusion.owner,
        reason=exclusion.reason,
        expires=exclusion.expires,
    )


def _condition(text: str, selections: _Selections) -> Condition:
    if not selections:
        raise RuleError("selections: there is none")
    made = {name: _selection(each) for name, each in selections.items()}
    if not text and len(made) > 1:
        raise RuleError("condition: say how the selections go together")
    condition = parse_condition(text, made) if text else next(iter(made.values()))
    _refuse_impossible(condition)
    return condition


def _selection(selection: _Selection) -> Condition:
    if isinstance(selection, dict):
        return _all(selection)
    if not selection:
        raise RuleError("selections: one is an empty list")
    return any_of([_all(each) for each in selection])


def _all(tests: dict[str, _Values]) -> Condition:
    if not tests:
        raise RuleError("selections: one is empty")
    return all_of([_test(key, values) for key, values in tests.items()])


def _test(key: str, values: _Values) -> Condition:
    """``field|op|all|cased|not = value`` or a list of values, of which one suffices."""
    name, *modifiers = key.split("|")
    many = tuple(values) if isinstance(values, list) else (values,)
    if not many:
        raise RuleError(f"{key}: an empty list matches nothing")
    if len(many) > VALUES_MAX:
        raise RuleError(f"{key}: has more than {VALUES_MAX} values")
    ops = [each for each in modifiers if each in _OPS]
    other = set(modifiers) - set(ops) - {"all", "cased"}
    if len(ops) > 1 or other:
        wrong = min(other) if other else " and ".join(ops)
        known = ", ".join([*_OPS, "all", "cased"])
        raise RuleError(f"{key}: cannot use {wrong!r}; modifiers are {known}")
    op: Op = _OPS[ops[0]] if ops else "equals"
    cased = "cased" in modifiers
    if name in _EXECUTABLES and op in _WHOLE_PATHS:
        _refuse_bare_names(key, many)
    if "all" in modifiers:
        return AllOf(tuple(Test(name, op, (each,), cased) for each in many))
    return Test(name, op, many, cased)


def _refuse_bare_names(key: str, values: tuple[Value, ...]) -> None:
    for value in values:
        if isinstance(value, str) and value and value[0] not in "/*?[":
            name = key.partition("|")[0]
            raise RuleError(
                f"{key}: {value!r} is no path, and executables are known by theirs;"
                f' write "{name}|endswith" = "/{value}"'
            )


def _refuse_impossible(condition: Condition) -> None:
    """Refuse a conjunction that wants a field to be two things at once, or something and not."""
    terms = condition.of if isinstance(condition, AllOf) else ()
    wanted: dict[str, set[Value]] = {}
    for term in terms:
        if isinstance(term, Not) and term.of in terms:
            what = _named(term.of)
            raise RuleError(f"condition: can never hold: asks for {what} and its opposite")
        if not isinstance(term, Test) or term.op != "equals" or term.field in _MANY_VALUED:
            continue
        values: set[Value] = {fold(str(each)) for each in term.values}
        both = wanted.setdefault(term.field, values) & values
        if not both:
            raise RuleError(f"{term.field}: can never be all that the condition wants at once")
        wanted[term.field] = both


def _named(condition: Condition) -> str:
    return condition.field if isinstance(condition, Test) else "a part"
