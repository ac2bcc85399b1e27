"""Rule files under watch: the last good set of rules, exchanged when the files change.

What is wrong with a file at the start is said and left out. What is wrong with it after a change is
said too, and what the file had in force before stays; the other files are taken up.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import structlog
import trio

from actors import rule_folders, rulebook
from actors.detection.builtin import NAMES
from actors.detection.rulefile import RuleFileError
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.rulebook import BUILT_IN, Found, Reader, RuleBook, RulesSettings
from actors.runtime import Actor

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


_SIGMA = (".yml", ".yaml")
_NAMED_MAX = 8


class NewRules(msgspec.Struct, frozen=True):
    """Rules that are in force from now on (rule watcher to whoever detects)."""

    rules: RuleSet

    def __len__(self) -> int:
        return 1


def today() -> str:
    """The date in UTC, ``2027-01-31``: after it an exclusion has expired."""
    return time.strftime("%Y-%m-%d", time.gmtime())


class RuleFiles:
    """The rules of a folder and the built-in ones.

    Args:
        settings: which are in force.
        filters: the lists that rules name.
        folder: of the files; None: the built-in rules alone.
        readers: by suffix.
        date: today, as text.
    """

    def __init__(
        self,
        settings: RulesSettings,
        filters: FilterSettings,
        *,
        folder: Path | None = None,
        readers: Mapping[str, Reader] = rulebook.READERS,
        date: Callable[[], str] = today,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self._filters = filters
        self._readers = readers
        self._date = date
        self._seen: object = None
        self._book: RuleBook | None = None
        self._found = Found()
        """What the rules in force were read from."""
        self._held: set[str] = set()
        """Files that are wrong since a change: what they had in force stays."""
        self._had_files = False
        self.refused = 0
        """Changes with files that were not taken up."""

    @property
    def book(self) -> RuleBook:
        """The rules in force; read at the first use.

        Raises:
            RuleFileError: The folder cannot be used.
        """
        if self._book is None:
            self._seen = self._look()
            self._found = rulebook.read_folder(self.folder, self._readers)
            self._book = self._assembled(self._found)
            for each in self._book.unusable:
                log.warning("rule is left out", rule=each.id, why=str(each))
            self._tell_of_unread()
            _tell_of_replaced(self._book)
        return self._book

    def _tell_of_unread(self) -> None:
        """Say what lies there and is for others: its owner may think that it is in force."""
        unread = set(_SIGMA) - set(self._readers)
        if self.folder is not None and unread and self.folder.is_dir():
            files = rule_folders.find_files([self.folder], unread)
            if files:
                log.warning(
                    "Sigma files are for the workers; `rules compile` makes them an agent's",
                    files=len(files),
                    folder=str(self.folder),
                )

    def unreadable(self) -> list[str]:
        """Files that this process's user may not read, so that no change of them is taken up.

        Raises:
            RuleFileError: it may not look into the folder.
        """
        if not rule_folders.is_there(self.folder):
            return []
        files = rule_folders.find_files([self.folder], set(self._readers))
        return [str(each) for each in files if not os.access(each, os.R_OK)]

    def warn_of_unreadable(self) -> None:
        """Say which they are; for who has given up the rights with which they were read."""
        try:
            files = self.unreadable()
        except RuleFileError as error:
            files = [str(error)]
            self._seen = str(error)  # as `changed` would say it
        if files:
            log.warning(
                "rule files cannot be read again: a change of them will not be taken up",
                files=files[:_NAMED_MAX],
                count=len(files),
            )

    def counts(self) -> dict[str, int]:
        """How many rules there are of each status; none before the first use."""
        rows = () if self._book is None else self._book.rows
        return dict(Counter(row.status for row in rows))

    def changed(self) -> RuleBook | None:
        """Look at the files; the new book if the rules in force have changed."""
        try:
            seen = self._look()
            if self._book is None or seen == self._seen:
                return None
            before, self._seen = self._book, seen
            found = rulebook.read_folder(self.folder, self._readers)
        except RuleFileError as error:
            if self._seen != str(error):  # said once
                self._refuse([str(error)])
            self._seen = str(error)
            return None
        book = self._assembled(found)
        known = {str(each) for each in before.unusable}
        wrong = [each for each in book.unusable if not each.unsupported]
        new = [str(each) for each in wrong if str(each) not in known]
        if new:
            self._refuse(new)
        self._held = {
            each.file for each in wrong if str(each) not in known or each.file in self._held
        }
        self._found = _with_last_good(found, self._found, self._held)
        if self._held:
            book = replace(self._assembled(self._found), unusable=book.unusable)
        if book.digest() == before.digest():
            self._book = replace(book, rules=before.rules)
            return None
        self._book = book
        log.info("rules have changed", active=sum(row.status == "active" for row in book.rows))
        _tell_of_replaced(book, before)
        return book

    def _refuse(self, reasons: list[str]) -> None:
        self.refused += 1
        for why in reasons:
            log.error("a changed rule file is not taken up; what it had in force stays", why=why)

    def _look(self) -> object:
        files = rule_folders.fingerprint(self.folder, self._readers)
        if files:
            self._had_files = True
        elif self._had_files and self.folder is not None and not self.folder.exists():
            raise RuleFileError(str(self.folder), 0, "is not there any more")
        # With the date: an exclusion expires although no file changes.
        return self._date(), files

    def _assembled(self, found: Found) -> RuleBook:
        return rulebook.assemble(found, self.settings, self._filters, today=self._date())


def _with_last_good(new: Found, before: Found, held: Container[str]) -> Found:
    """What was read, but of some files what was read before."""
    return Found(
        rules=[
            *(each for each in new.rules if each[1] not in held),
            *(each for each in before.rules if each[1] in held),
        ],
        unusable=new.unusable,
        tunings=[
            *(each for each in new.tunings if each[1] not in held),
            *(each for each in before.tunings if each[1] in held),
        ],
    )


def _tell_of_replaced(book: RuleBook, before: RuleBook | None = None) -> None:
    """Say which built-in rules are not what was shipped: whoever may write a file may do that."""
    known = () if before is None else before.rows
    for row in book.rows:
        if row.id in NAMES and row.file != BUILT_IN and row not in known:
            log.warning(
                "a file takes the place of a built-in rule",
                rule=row.id,
                file=row.file,
                status=row.status,
            )


class RuleWatcher(Actor):
    """Source: looks at the rule files from time to time and tells new rules.

    Args:
        files: the files.
        live: false in a replay, where there is no time to keep.
    """

    emits = (NewRules,)

    def __init__(self, *, files: RuleFiles, live: bool) -> None:
        self._files = files
        self._live = live
        self.tick_secs = files.settings.reload_secs

    async def run(self) -> None:
        """Tick; in a replay end at once."""
        if self._live:
            await super().run()
        else:
            await trio.lowlevel.checkpoint()

    async def tick(self) -> None:
        """Look once, in a thread: a folder may be on a slow disk."""
        book = await trio.to_thread.run_sync(self._files.changed)
        if book is not None:
            await self.context.tell(NewRules(book.rules))
