import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.detection.regex_literals import regex_literals
from actors.detection.text import fold

PIECES = st.sampled_from(
    [
        *("a", "B", "c", "-", "x", "ab", r"\.", r"\-", r"\s", ".", r"\b", "^", "$", "[ab]", "[^a]"),
        *("[a-c]", "[[:alpha:]]", "[]a]", "(a|b)", "(?:ab|c)", "(a(b|c)|x)", "(a|)", "(?i)", "|"),
        *(r"\x41", r"\Q.\E", "?", "*", "+", "{0}", "{0,2}", "{2}", "{1,}", "{,3}", "+?", "(", ")"),
    ]
)
TEXTS = st.text("aAbBcCxX-. \u212a{},3", max_size=12)


@settings(max_examples=2000)
@given(st.lists(PIECES, max_size=8).map("".join), st.lists(TEXTS, min_size=1, max_size=20))
def test_where_an_expression_is_found_one_of_its_literals_is(
    pattern: str, texts: list[str]
) -> None:
    literals = regex_literals(pattern)
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error:
        return
    for text in texts:
        if literals and compiled.search(text):
            assert any(literal in fold(text) for literal in literals)


@pytest.mark.parametrize(
    ("pattern", "literals"),
    [
        (r"-(W|R)\s?(\s|')([0-9a-fA-F]{2}\s?){2,20}", ("-r", "-w")),
        (r"/mail/tmp/[a-zA-Z0-9]{3}[0-9]{3}\.tar\.gz", ("/mail/tmp/",)),
        (r"https://[0-9]{1,3}\.[0-9]", ("https://",)),
        (r"\s-[FTd]\s", ("-d", "-f", "-t")),
        (r"ab+c", ("ab",)),
        (r"abc?d", ("ab",)),
        (r"one|two", ()),
        (r"(.){200,}", ()),
        (r"(?i)one", ()),
        (r"\x41bc", ()),
        ("[abcdefghijklmnopq]z", ("z",)),
        ("straße", ()),
        ("", ()),
    ],
)
def test_literals_of_an_expression(pattern: str, literals: tuple[str, ...]) -> None:
    assert regex_literals(pattern) == literals
