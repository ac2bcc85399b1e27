"""The rules of the workers: Lavender's own files and Sigma's, under watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from actors import rule_folders, rulebook
from actors.detection.rulefile import RuleFileError
from actors.detection.settings import FilterSettings
from actors.rulebook import Found, Reader, RulesSettings, Unusable
from actors.rulefiles import RuleFiles
from actors.runtime import Actor
from services.detection.sigma.loading import load_files


def read_sigma(paths: Sequence[Path]) -> Found:
    """Read Sigma files together: correlations name rules of other files."""
    folders = [path for path in paths if path.is_dir()]
    results = load_files(path for path in paths if path not in folders)
    return Found(
        rules=[(each.rule, each.path) for each in results.loaded],
        unusable=[
            *(Unusable(str(path), 0, "is no file") for path in folders),
            *(
                Unusable(
                    each.path,
                    each.line,
                    each.reason,
                    each.id,
                    each.title,
                    unsupported=each.kind == "unsupported",
                )
                for each in results.refusals
            ),
        ],
    )


READERS: Mapping[str, Reader] = {
    **rulebook.READERS,
    ".yml": read_sigma,
    ".yaml": read_sigma,
}


def chosen(paths: Sequence[Path], readers: Mapping[str, Reader]) -> Found:
    """The rules of files and folders that somebody names.

    Raises:
        RuleFileError: a path is not there, or is of no known form.
    """
    files = rule_folders.find_files(paths, readers)
    for path in files:
        if path.suffix not in readers:
            known = ", ".join(readers)
            raise RuleFileError(str(path), 0, f"is no rule file; their names end in {known}")
    return rulebook.read_files(files, readers)


def rule_files(settings: RulesSettings, filters: FilterSettings) -> RuleFiles:
    """The rules under watch; `services.program.load_settings` has made the folder absolute."""
    folder = settings.folder if settings.folder.is_absolute() else None
    return RuleFiles(settings, filters, folder=folder, readers=READERS)


class RuleLooker(Actor):
    """Source without an edge: looks at the rule files from time to time.

    Engines ask for the rules in force before each batch, so nobody has to be told.

    Args:
        files: the files.
    """

    def __init__(self, *, files: RuleFiles) -> None:
        self._files = files
        self.tick_secs = files.settings.reload_secs

    async def start(self) -> None:
        """Read the rules, in a thread."""
        await super().start()
        await trio.to_thread.run_sync(lambda: self._files.book)

    async def tick(self) -> None:
        """Look once, in a thread: a folder may be on a slow disk."""
        await trio.to_thread.run_sync(self._files.changed)
