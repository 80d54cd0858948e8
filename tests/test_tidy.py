"""The rules of the house, as tests."""

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "amqpbroker"

FLOORS = (
    ("errors", "world"),
    ("patterns",),
    ("storage", "definitions", "message"),
    ("queues", "routing", "protocol", "replication"),
    ("cluster",),
    ("broker",),
    ("management",),
    ("server",),
    ("cli",),
)
"""From the ground up: a room imports lower floors and itself."""

NEIGHBOURS = {("storage", "message"), ("message", "definitions")}
"""Rooms of one floor that may still see each other, in this direction."""

NO_ASYNC = {
    "cluster",
    "definitions",
    "errors",
    "message",
    "patterns",
    "protocol",
    "replication",
    "routing",
}
DOORS_OF_SYNCHRONOUS_ROOMS = (
    "cluster/deaths",
    "cluster/etcd/",
    "cluster/link",
    "cluster/membership",
    "cluster/shared",
    "cluster/upload",
)
"""What of these rooms speaks to others over the network, and waits for them."""
NOT_REPLAYABLE = {"time", "random", "socket", "os", "threading", "secrets", "uuid"}
DOORS = {"world", "server", "cli", "testing"}

TOP_LEVEL = {
    "LICENSE",
    "README.md",
    "amqpbroker",
    "bench",
    "plugins",
    "policies",
    "pyproject.toml",
    "tests",
}

floor_of = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """Full names of imported modules, but for those that only the type checker sees."""
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_room_imports_lower_floors_only(file: Path) -> None:
    room = room_of(file)
    if room in ("__init__", "__main__", "testing"):
        return
    for name in imports(parsed(file)):
        parts = name.split(".")
        if parts[0] != "amqpbroker" or len(parts) == 1 or parts[1] == room:
            continue
        there = parts[1]
        assert floor_of[there] < floor_of[room] or (room, there) in NEIGHBOURS, (
            f"{file.relative_to(ROOT)} imports {name}"
        )


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(file) for file in sources()} - {"__init__", "__main__", "testing"}
    assert rooms <= set(floor_of)


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_middle_is_synchronous(file: Path) -> None:
    place = str(file.relative_to(PACKAGE))
    if room_of(file) in NO_ASYNC and not place.startswith(DOORS_OF_SYNCHRONOUS_ROOMS):
        kinds = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
        assert not [node.lineno for node in ast.walk(parsed(file)) if isinstance(node, kinds)]


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_what_cannot_be_replayed_comes_through_the_doors(file: Path) -> None:
    if room_of(file) in DOORS:
        return
    tree = parsed(file)
    annotations_only = {"random"} if uses_only_for_types(tree, "random", "Random") else set()
    assert not NOT_REPLAYABLE & {name.split(".")[0] for name in imports(tree)} - annotations_only


def uses_only_for_types(tree: ast.Module, module: str, name: str) -> bool:
    """Whether ``module`` is used for nothing but the type ``module.name``."""
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == module
    }
    return used == {name}


def test_the_top_level_is_fixed() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_nothing_is_left_to_be_done() -> None:
    words = "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3))
    for file in itertools.chain(sources(), sources(ROOT / "bench"), sources(ROOT / "tests")):
        assert not re.search(rf"\b({words})\b", file.read_text()), file


def test_what_is_promised_to_a_stranger_is_what_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    command = re.search(r"^pip install .* python -m pytest.*$", readme, re.MULTILINE)
    assert command is not None
    assert command[0] in (ROOT / ".ci" / "run").read_text()


def test_every_public_thing_says_what_it_promises() -> None:
    silent = []
    for file in sources():
        tree = parsed(file)
        contracts = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        functions = [
            node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        for node in (tree, *contracts, *functions):
            name = getattr(node, "name", "module")
            if not name.startswith("_") and ast.get_docstring(node) is None:
                silent.append(f"{file.relative_to(ROOT)}: {name}")
    assert not [name for name in silent if not name.endswith("__main__.py: module")]


def run(*command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_ruff_has_nothing_to_say() -> None:
    run("ruff", "check", "--no-cache", ".")
    run("ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.slow
def test_mypy_has_nothing_to_say() -> None:
    run("mypy", "--cache-dir=/dev/null")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("covered", "tests"),
    [
        ("protocol/*,routing/*", ("protocol", "routing")),
        ("cluster/wire.py,cluster/hello.py", ("cluster/test_wire.py", "cluster/test_hello.py")),
    ],
)
def test_what_reads_a_peers_octets_is_covered_to_the_last_branch(
    tmp_path: Path, covered: str, tests: tuple[str, ...]
) -> None:
    """By examples alone: property tests would be slow under coverage, and what they draw varies."""
    data = f"--data-file={tmp_path / 'coverage'}"
    files = ",".join(f"amqpbroker/{each}" for each in covered.split(","))
    paths = [f"tests/unit/{each}" for each in tests]
    pytest_run = ("-m", "pytest", "-q", "-m", "not hypothesis", *paths)
    run("coverage", "run", data, "--source=amqpbroker", *pytest_run)
    run("coverage", "report", data, f"--include={files}", "--show-missing", "--fail-under=100")
