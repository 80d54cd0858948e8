"""Regular expressions of users."""

import pytest

from amqpbroker.errors import DefinitionError
from amqpbroker.patterns import check_pattern, holds


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("", "", True),
        ("", "q", False),
        ("tmp", "my tmp queue", True),
        (r"^[\w-\.]+$", "my-queue.1", True),
        (r"^(?!amq\.).*", "amq.direct", False),
        (r"[[:alpha:]]", "1", False),
        (r"[[:alpha:]]", "a", True),
        (r"(?i)^ABC", "abc", True),
        (r"abc\z", "abc", True),
        (r"\p{L}", "ä", True),
    ],
)
def test_patterns_mean_what_they_mean_to_perl(pattern: str, name: str, expected: bool) -> None:
    check_pattern(pattern, "names")

    assert holds(pattern, name) is expected


def test_a_pattern_that_takes_for_ever_does_not_match(caplog: pytest.LogCaptureFixture) -> None:
    assert not holds("^(a|aa)+$", "a" * 60 + "!")

    assert "takes too long" in caplog.text


@pytest.mark.parametrize("pattern", ["(", "[a", "*", r"\Q"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(DefinitionError, match="is no regular expression for names"):
        check_pattern(pattern, "names")
