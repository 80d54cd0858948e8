"""The lists beside the scripts name what there is, and nothing else."""

import re
import tomllib
from pathlib import Path

import pytest
from kit.differences import load_differences
from kit.matrix import load_answers
from kit.script import Expect, Script, load

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def scripts() -> dict[str, Script]:
    files = sorted((HERE / "scripts").glob("*.amqp"))
    return {script.id: script for file in files for script in load(file)}


def test_every_difference_is_in_a_script_or_in_the_matrix(scripts: dict[str, Script]) -> None:
    differences = load_differences(HERE / "differences.toml")
    answers = load_answers(HERE / "matrix.txt")
    cells = {f"matrix: {situation}: {frame}": key for key in answers for situation, frame in [key]}
    assert differences.by_script.keys() <= scripts.keys() | cells.keys()
    for name in differences.by_script:
        if name in cells:
            differences.answers(name, answers[cells[name]])
        else:
            differences.as_theirs(scripts[name])


def test_every_wording_is_in_a_script(scripts: dict[str, Script]) -> None:
    expected = [
        step.text
        for script in scripts.values()
        for step in script.steps
        if isinstance(step, Expect)
    ]
    for wording in load_differences(HERE / "differences.toml").wordings:
        assert any(re.search(wording.ours, text) for text in expected), wording


def test_every_row_has_a_script_or_a_reason(scripts: dict[str, Script]) -> None:
    rows = tomllib.loads((HERE / "rows.toml").read_text())
    named = {row for script in scripts.values() for row in script.rows}
    assert not set(rows["here"]) - named
    assert not named - set(rows["here"]) - rows["later"].keys()
    assert not set(rows["here"]) & rows["later"].keys()


def test_every_script_has_a_row(scripts: dict[str, Script]) -> None:
    assert not [script.id for script in scripts.values() if not script.rows]
