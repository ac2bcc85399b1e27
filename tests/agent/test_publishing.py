from pathlib import Path

from actors.agent.publishing import _policy_version
from actors.agent.settings import Settings
from actors.rulefiles import RuleFiles

RULE = 'id = "mine"\ntitle = "Mine"\nevent = "exec"\nselections.a = { "exe|endswith" = "/x" }\n'


def test_the_policy_has_another_version_when_rules_or_settings_change(tmp_path: Path) -> None:
    settings = Settings()
    files = RuleFiles(settings.rules, settings.filters, folder=tmp_path)
    first = _policy_version(settings, files.book)
    assert _policy_version(settings, files.book) == first
    (tmp_path / "mine.toml").write_text(RULE)
    assert files.changed() is not None
    second = _policy_version(settings, files.book)
    other = Settings.model_validate({"response": {"kill_threshold": 7}})
    assert len({first, second, _policy_version(other, files.book)}) == 3
