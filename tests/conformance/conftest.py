"""Collects the scripts: one test for each.

They run in this process, against a broker of their own that decides at once; again, against one
that decides later, as a node of a cluster does; and again, against one whose queues another node
has; with ``--against URL`` they run against
the broker there, and are held against what RabbitMQ does (``differences.toml``).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from kit import drivers
from kit.conversation import Parted
from kit.differences import Differences, load_differences
from kit.drivers import Skipped, Socket
from kit.run import run_against, run_in_process
from kit.script import Script, load

HERE = Path(__file__).parent
_SETTINGS: tuple[tuple[drivers.Setting, str], ...] = (
    ("later", "decided later"),
    ("elsewhere", "through another node"),
)
_stash = pytest.StashKey["Setting"]()


@attrs.define
class Setting:
    """What the run is about: against whom, and what is known beforehand."""

    driver: Socket | None
    differences: Differences


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--against", help="amqp://HOST:PORT/ of a broker to compare with (RabbitMQ)")
    group.addoption("--ctl", help="command line of its rabbitmqctl, for scripts with an operator")
    group.addoption("--record", help="write the matrix of the broker at hand to this file")


def pytest_configure(config: pytest.Config) -> None:
    against = config.getoption("--against", None)
    driver = Socket(against, config.getoption("--ctl")) if against else None
    config.stash[_stash] = Setting(driver, load_differences(HERE / "differences.toml"))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix == ".amqp":
        return ScriptFile.from_parent(parent, path=file_path)
    return None


@pytest.fixture(scope="session")
def against(request: pytest.FixtureRequest) -> Iterator[Socket | None]:
    """The broker to compare with, if the run is a comparison."""
    driver = request.config.stash[_stash].driver
    yield driver
    if driver is not None:
        driver.clean_up()


class ScriptFile(pytest.File):
    """A file of scripts."""

    def collect(self) -> Iterator[pytest.Item]:
        for script in load(self.path):
            yield ScriptItem.from_parent(self, name=script.title, script=script)
            if self.config.stash[_stash].driver is None:
                for setting, what in _SETTINGS:
                    name = f"{script.title} ({what})"
                    yield ScriptItem.from_parent(self, name=name, script=script, setting=setting)


class ScriptItem(pytest.Item):
    """A script as a test."""

    obj = None
    """Plugins look for a test's function here."""

    def __init__(self, script: Script, setting: drivers.Setting = "here", **options: Any) -> None:
        super().__init__(**options)
        self.script = script
        self._setting = setting

    def runtest(self) -> None:
        setting = self.config.stash[_stash]
        if setting.driver is not None:
            self._compare(setting.driver, setting.differences)
        else:
            run_in_process(self.script, self._setting)

    def _compare(self, driver: Socket, differences: Differences) -> None:
        try:
            run_against(differences.as_theirs(self.script), driver)
            if differences.in_script(self.script):
                self._check_that_they_differ(driver, differences.worded(self.script))
        except Skipped as reason:
            pytest.skip(str(reason))

    def _check_that_they_differ(self, driver: Socket, script: Script) -> None:
        try:
            run_against(script, driver)
        except Parted:
            return
        pytest.fail("differences.toml: both do the same by now; take it out", pytrace=False)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Parted):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.script.line - 1, f"{self.path.name}: {self.name}"
