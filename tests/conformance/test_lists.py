"""The lists beside the scripts name what there is, and nothing else."""

import re
import tomllib
from pathlib import Path

import pytest
from kit.differences import load_differences
from kit.script import Expect, Script, load

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def scripts() -> dict[str, Script]:
    files = sorted((HERE / "scripts").glob("*.amqp"))
    return {script.id: script for file in files for script in load(file)}


def test_every_difference_is_in_a_script(scripts: dict[str, Script]) -> None:
    differences = load_differences(HERE / "differences.toml")
    assert differences.by_script.keys() <= scripts.keys()
    for name in differences.by_script:
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


def test_what_is_pending_is_a_script(scripts: dict[str, Script]) -> None:
    pending = HERE / "pending.toml"
    entries = tomllib.loads(pending.read_text())["pending"] if pending.exists() else []
    assert {entry["script"] for entry in entries} <= scripts.keys()
