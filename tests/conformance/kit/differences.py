"""Where a broker may differ from RabbitMQ on purpose, or RabbitMQ's versions from each other.

The scripts say what this broker does. `differences.toml` names lines of them where the RabbitMQ
that they are compared with says something else, and why.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import attrs

from kit.script import Script, Step, parse_step


@attrs.frozen
class Difference:
    """In ``script``, RabbitMQ does ``theirs`` where this broker does ``ours``: lines of a script.

    ``ours`` stand in the script one after the other.
    """

    script: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    why: str


def load_differences(path: Path) -> dict[str, list[Difference]]:
    """Differences by the id of the script. Raises `ValueError` if one is not complete."""
    found: dict[str, list[Difference]] = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("difference", []):
        if entry.keys() != {"script", "ours", "theirs", "why"} or not entry["why"].strip():
            raise ValueError(f"a difference has script, ours, theirs and why, all of them: {entry}")
        ours, theirs = _lines(entry["ours"]), _lines(entry["theirs"])
        difference = Difference(entry["script"], ours, theirs, entry["why"])
        found.setdefault(difference.script, []).append(difference)
    return found


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def as_theirs(script: Script, differences: Sequence[Difference]) -> Script:
    """``script`` with what RabbitMQ does. Raises `ValueError` if a difference is not in it."""
    steps = list(script.steps)
    for difference in differences:
        at = _find(steps, difference)
        line = steps[at].line
        theirs = [parse_step(text, line, script.file) for text in difference.theirs]
        steps[at : at + len(difference.ours)] = theirs
    return attrs.evolve(script, steps=tuple(steps))


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
