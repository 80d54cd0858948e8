"""The integration tests that client libraries carry in their source distributions.

Each suite has a fresh broker: kombu's leaves messages behind that its next run trips over. And each
is run once more against a node of two, while the other has the queues.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from amqpbroker.cli.etcd_servers import find_etcd
from amqpbroker.errors import ConfigError
from tests.clients.places import Alone, Elsewhere, Place

pytestmark = pytest.mark.slow

PATIENCE_S = 300

LEFT_OUT = {"tls": "the broker has no TLS yet"}
"""Parts of names of tests that are not run, and why."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("suites")


def fetch(package: str, folder: Path) -> Path:
    """The source of ``package``, in the version that is installed, from the package index.

    Whoever has no way to the index skips the test; in CI it fails.
    """
    version = importlib.metadata.version(package)
    download = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary", package, "--dest", folder, f"{package}=={version}"),
        ],
        capture_output=True,
        text=True,
    )
    if download.returncode:
        assert "CI" not in os.environ, download.stderr
        pytest.skip(f"{package} {version} did not come from the index: {download.stderr[-500:]}")
    with tarfile.open(folder / f"{package}-{version}.tar.gz") as archive:
        # Pythons before 3.11.4 know no filters; from 3.12 on, to have none is a warning.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    return folder / f"{package}-{version}"


PLUGINS_OFF = [
    part for name in ("amqpbroker", "trio", "rerunfailures") for part in ("-p", f"no:{name}")
]


@attrs.define
class Outcomes:
    """How tests came out (none fails), and how many queues another node has had."""

    passed: int = 0
    skipped: int = 0
    xfailed: int = 0
    others_queues: int = 0


def run_tests(source: Path, place: Place, *arguments: str) -> Outcomes:
    """Run tests of ``source`` against ``place``."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rA", "--disable-warnings"),
            *PLUGINS_OFF,
            *arguments,
        ],
        cwd=source,
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
            "RABBITMQ_HOST": place.host,
            "RABBITMQ_5672_TCP": str(place.port),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    print(run.stdout)
    assert run.returncode == 0
    outcomes = Outcomes(others_queues=place.others_queues())
    for count, outcome in re.findall(
        r"(\d+) (passed|skipped|xfailed)", run.stdout.splitlines()[-1]
    ):
        setattr(outcomes, outcome, int(count))
    return outcomes


def run_all(source: Path, place: Place, tests: str, *keywords: str) -> Outcomes:
    """Run ``tests`` of ``source`` against ``place``; none may be skipped.

    Without those that are left out; of the others, those that all the ``keywords`` select.
    """
    wanted = " and ".join([f"not {name}" for name in LEFT_OUT] + [f"({word})" for word in keywords])
    with place:
        outcomes = run_tests(source, place, tests, "-k", wanted)
    assert outcomes.skipped == outcomes.xfailed == 0
    return outcomes


@pytest.fixture(params=["alone", "elsewhere"])
def place(request: pytest.FixtureRequest, folder: Path) -> Callable[[], Place]:
    """Makes brokers: a node alone, or one of two, of which the other has the queues."""
    if request.param == "alone":
        return Alone
    try:
        find_etcd()
    except ConfigError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))
    return lambda: Elsewhere(folder)


def test_the_suite_of_py_amqp_passes(folder: Path, place: Callable[[], Place]) -> None:
    """48 tests at 5.4.2, 44 before. All its queues are connections' own."""
    assert run_all(fetch("amqp", folder), place(), "t/integration").passed >= 44


def test_the_suite_of_kombu_passes(folder: Path, place: Callable[[], Place]) -> None:
    """51 tests at 5.7.0, 41 before. They sleep a lot, so parts of them run beside each other."""
    source = fetch("kombu", folder)
    long = ["BasicFunctionality", "Failover", "TimeToLive"]
    parts = [*long, " and ".join(f"not {part}" for part in long)]

    def run(part: str) -> Outcomes:
        return run_all(source, place(), "t/integration/test_py_amqp.py", part)

    with ThreadPoolExecutor(len(parts)) as pool:
        outcomes = list(pool.map(run, parts))

    assert sum(each.passed for each in outcomes) >= 41
    if place is not Alone:
        assert sum(each.others_queues for each in outcomes) >= 20


PIKA = os.environ.get("AMQPBROKER_TEST_PIKA", "https://github.com/pika/pika")
"""pika's repository: its source distributions come without tests."""


EVENT_LOOPS = ("gevent", "tornado", "twisted")
"""pika runs its tests on these too, if they are installed."""


@pytest.fixture(scope="module")
def pika_source(folder: Path) -> Path:
    """pika's tests, of the version that is installed.

    They come from no package index: where only those can be reached, in CI too, there are none.
    """
    version = importlib.metadata.version("pika")
    source = folder / "pika"
    command = ["git", "clone", "--quiet", "--depth=1", f"--branch={version}", PIKA, str(source)]
    clone = subprocess.run(command, capture_output=True, text=True)
    if clone.returncode:
        pytest.skip(f"pika {version} did not come from {PIKA}: {clone.stderr[-500:]}")
    return source


def test_the_suite_of_pika_passes(
    pika_source: Path, tmp_path: Path, place: Callable[[], Place]
) -> None:
    """What of its acceptance tests needs a broker: 284 at 1.4.4, without event loops of others.

    It asks at port 5672, and has its queues for itself; so that another node has them, it must not.
    """
    absent = [name for name in EVENT_LOOPS if importlib.util.find_spec(name) is None]
    shutil.copytree(pika_source / "tests", tmp_path / "tests")
    with place() as here:
        changes = {"5672": str(here.port)}
        if place is not Alone:
            changes["exclusive=True"] = "exclusive=False"
        for file in (tmp_path / "tests").rglob("*.py"):
            text = file.read_text()
            for old, new in changes.items():
                text = text.replace(old, new)
            file.write_text(text)
        outcomes = run_tests(
            tmp_path,
            here,
            *("-c", "/dev/null", "--rootdir", str(tmp_path)),
            "tests/acceptance/async_adapter_tests.py",
            "tests/acceptance/blocking_adapter_test.py",
            "tests/acceptance/enforce_one_basicget_test.py",
            *("-k", " and ".join(f"not {name}" for name in ("tls", *absent))),
        )
    assert outcomes.passed >= 280
    assert place is Alone or outcomes.others_queues >= 90
