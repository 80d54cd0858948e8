"""The integration tests that client libraries carry in their source distributions.

Each suite has a fresh broker: kombu's leaves messages behind that its next run trips over.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from amqpbroker.testing.process import BrokerProcess

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
        archive.extractall(folder, filter="data")
    return folder / f"{package}-{version}"


def passed(source: Path, tests: str, *keywords: str) -> int:
    """Run ``tests`` of ``source`` against a fresh broker: how many passed; none may fail or skip.

    Without those that are left out; of the others, those that all the ``keywords`` select.
    """
    wanted = " and ".join([f"not {name}" for name in LEFT_OUT] + [f"({word})" for word in keywords])
    plugins = [("-p", f"no:{name}") for name in ("amqpbroker", "trio", "rerunfailures")]
    with BrokerProcess() as broker:
        run = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-rA", "--disable-warnings"),
                *(part for plugin in plugins for part in plugin),
                *(tests, "-k", wanted),
            ],
            cwd=source,
            env={
                **{name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
                "RABBITMQ_HOST": broker.host,
                "RABBITMQ_5672_TCP": str(broker.port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
        )
    print(run.stdout)
    assert run.returncode == 0
    outcomes = dict.fromkeys(["passed", "skipped", "xfailed"], 0)
    for count, outcome in re.findall(r"(\d+) (\w+)", run.stdout.splitlines()[-1]):
        outcomes[outcome] = int(count)
    assert outcomes["skipped"] == outcomes["xfailed"] == 0
    return outcomes["passed"]


def test_the_suite_of_py_amqp_passes(folder: Path) -> None:
    """48 tests at 5.4.2, 44 before."""
    assert passed(fetch("amqp", folder), "t/integration") >= 44


def test_the_suite_of_kombu_passes(folder: Path) -> None:
    """51 tests at 5.7.0, 41 before. They sleep a lot, so parts of them run beside each other."""
    source = fetch("kombu", folder)
    long = ["BasicFunctionality", "Failover", "TimeToLive"]
    parts = [*long, " and ".join(f"not {part}" for part in long)]

    with ThreadPoolExecutor(len(parts)) as pool:
        counts = list(
            pool.map(lambda part: passed(source, "t/integration/test_py_amqp.py", part), parts)
        )

    assert sum(counts) >= 41
