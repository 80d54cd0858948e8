"""Where a broker may differ from RabbitMQ on purpose, or RabbitMQ's versions from each other.

The scripts say what this broker does. `differences.toml` names lines of them where the RabbitMQ
that they are compared with says something else, and why.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import attrs

from kit.script import Expect, Script, Step, parse_step


@attrs.frozen
class Difference:
    """In ``script``, RabbitMQ does ``theirs`` where this broker does ``ours``: lines of a script.

    ``ours`` stand in the script one after the other.
    """

    script: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    why: str


@attrs.frozen
class Wording:
    """What RabbitMQ words otherwise in many scripts: ``ours``, a pattern, is ``theirs`` there."""

    ours: str
    theirs: str
    why: str


@attrs.frozen
class Differences:
    """All that may differ."""

    by_script: dict[str, list[Difference]]
    wordings: list[Wording]

    def in_script(self, script: Script) -> list[Difference]:
        """Those of one script alone."""
        return self.by_script.get(script.id, [])

    def answers(self, name: str, ours: list[str]) -> list[str]:
        """What RabbitMQ answers where this broker answers ``ours``: a cell of the matrix."""
        for difference in self.by_script.get(name, []):
            if tuple(ours) != difference.ours:
                raise ValueError(f"{name!r} is not {difference.ours}")
            return list(difference.theirs)
        return [self._in_words(line) for line in ours]

    def worded(self, script: Script) -> Script:
        """``script`` in RabbitMQ's words."""
        return attrs.evolve(script, steps=tuple(self._worded(script, s) for s in script.steps))

    def _worded(self, script: Script, step: Step) -> Step:
        text = self._in_words(step.text)
        if not isinstance(step, Expect) or text == step.text:
            return step
        return parse_step(text, step.line, script.file)

    def _in_words(self, text: str) -> str:
        for wording in self.wordings:
            text = re.sub(wording.ours, wording.theirs, text)
        return text

    def as_theirs(self, script: Script) -> Script:
        """What RabbitMQ does. Raises `ValueError` if a difference is not in the script."""
        steps = list(script.steps)
        for difference in self.in_script(script):
            at = _find(steps, difference)
            line = steps[at].line
            theirs = [parse_step(text, line, script.file) for text in difference.theirs]
            steps[at : at + len(difference.ours)] = theirs
        return self.worded(attrs.evolve(script, steps=tuple(steps)))


def load_differences(path: Path) -> Differences:
    """What `differences.toml` says. Raises `ValueError` if an entry is not complete."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    found: dict[str, list[Difference]] = {}
    for entry in entries.get("difference", []):
        _check(entry, {"script", "ours", "theirs", "why"})
        ours, theirs = _lines(entry["ours"]), _lines(entry["theirs"])
        difference = Difference(entry["script"], ours, theirs, entry["why"])
        found.setdefault(difference.script, []).append(difference)
    for entry in entries.get("wording", []):
        _check(entry, {"ours", "theirs", "why"})
    return Differences(found, [Wording(**entry) for entry in entries.get("wording", [])])


def _check(entry: dict[str, Any], keys: set[str]) -> None:
    if entry.keys() != keys or not entry["why"].strip():
        raise ValueError(f"a difference has {', '.join(sorted(keys))}: {entry}")


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _find(steps: list[Step], difference: Difference) -> int:
    texts = [step.text for step in steps]
    size = len(difference.ours)
    places = [i for i in range(len(texts)) if tuple(texts[i : i + size]) == difference.ours]
    if len(places) != 1:
        raise ValueError(
            f"{difference.script!r} has these lines {len(places)} times, not once:"
            f" {' / '.join(difference.ours)}"
        )
    return places[0]
