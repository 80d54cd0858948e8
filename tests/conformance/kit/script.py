"""The script format: text to steps. README.md beside the scripts describes it for writers."""

import re
from pathlib import Path

import attrs

DEFAULT_CONNECTION = "a"

_TITLE = re.compile(r"== (?P<title>.+)")
_ROWS = re.compile(r"\[(?P<rows>[^\]]+)\]")
_FRAME = re.compile(
    r"(?P<connection>[a-z]?)(?P<channel>\d+) (?P<arrow>>|<~|<) (?P<name>[a-z.-]+)(?P<args>\(.*\))?"
)
_ACT = re.compile(
    r"(?P<connection>[a-z]): (?P<act>connect|socket|send|drop|ended)(?P<args>\(.*\))?"
)
_WAIT = re.compile(r"wait (?P<count>\d+)(?P<unit>ms|s)")


class ScriptError(Exception):
    """A script that cannot be read; the text says where and why."""


@attrs.frozen
class Step:
    """One line of a script, as it was written (``text``), with its number."""

    line: int
    text: str


@attrs.frozen
class Send(Step):
    """Send a frame, or a method with its content."""

    connection: str
    channel: int
    name: str
    args: str


@attrs.frozen
class Expect(Step):
    """A frame is to come next on its channel; ``anywhere``: among those that have come there."""

    connection: str
    channel: int
    name: str
    args: str
    anywhere: bool = False


@attrs.frozen
class Act(Step):
    """Something about a connection as a whole."""

    connection: str
    name: str
    args: str


@attrs.frozen
class Ctl(Step):
    """A command of an operator, in rabbitmqctl's words."""

    command: str


@attrs.frozen
class Wait(Step):
    """Let time pass."""

    seconds: float


@attrs.frozen
class Script:
    """A sentence about behaviour, and the conversation that proves it."""

    file: str
    line: int
    title: str
    rows: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def id(self) -> str:
        """How lists of scripts name it."""
        return f"{self.file}: {self.title}"


def parse(text: str, file: str) -> list[Script]:
    """The scripts in ``text``. Raises `ScriptError`."""
    scripts: list[Script] = []
    shared_rows: tuple[str, ...] = ()
    for number, title, lines in _split(text, file):
        rows = [row for _, line in lines for row in _rows(line)]
        if not title:
            shared_rows = tuple(rows)
            continue
        steps = tuple(parse_step(line, at, file) for at, line in lines if not _rows(line))
        if not steps:
            raise ScriptError(f"{file}:{number}: a script without steps")
        if any(script.title == title for script in scripts):
            raise ScriptError(f"{file}:{number}: a second script with this title")
        scripts.append(Script(file, number, title, shared_rows + tuple(rows), steps))
    return scripts


def _rows(line: str) -> list[str]:
    found = _ROWS.fullmatch(line)
    return [row.strip() for row in found["rows"].split(";")] if found else []


def _split(text: str, file: str) -> list[tuple[int, str, list[tuple[int, str]]]]:
    """Titles and the logical lines under them; what stands before the first has no title."""
    parts: list[tuple[int, str, list[tuple[int, str]]]] = [(1, "", [])]
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        lines = parts[-1][2]
        if found := _TITLE.fullmatch(stripped):
            parts.append((number, found["title"], []))
        elif line[0] == " " and not stripped.startswith("["):
            if not lines:
                raise ScriptError(f"{file}:{number}: a line that continues nothing")
            lines[-1] = lines[-1][0], f"{lines[-1][1]} {stripped}"
        else:
            lines.append((number, stripped))
    return parts


def parse_step(text: str, line: int, file: str) -> Step:
    """The step in a logical line. Raises `ScriptError`."""
    if found := _FRAME.fullmatch(text):
        connection = found["connection"] or DEFAULT_CONNECTION
        channel, name, args = int(found["channel"]), found["name"], found["args"] or "()"
        if found["arrow"] == ">":
            return Send(line, text, connection, channel, name, args)
        return Expect(line, text, connection, channel, name, args, found["arrow"] == "<~")
    if found := _ACT.fullmatch(text):
        return Act(line, text, found["connection"], found["act"], found["args"] or "()")
    if found := _WAIT.fullmatch(text):
        return Wait(line, text, int(found["count"]) / (1000 if found["unit"] == "ms" else 1))
    if text.startswith("$ "):
        return Ctl(line, text, text[2:])
    raise ScriptError(f"{file}:{line}: no step: {text}")


def load(path: Path) -> list[Script]:
    """The scripts in a file. Raises `ScriptError`."""
    return parse(path.read_text(encoding="utf-8"), path.stem)
