import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqpbroker.cli.etcd_servers import (
    EtcdExecutable,
    EtcdServers,
    executable_at,
    find_etcd,
    free_ports,
)
from amqpbroker.errors import ConfigError


@pytest.fixture(scope="session")
def etcd_executable() -> EtcdExecutable:
    """The etcd that the environment names (AMQPBROKER_TEST_ETCD), or one that is found."""
    try:
        path = os.environ.get("AMQPBROKER_TEST_ETCD")
        return find_etcd() if path is None else executable_at(path)
    except ConfigError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def etcd_options(etcd_executable: EtcdExecutable) -> list[str]:
    """What makes it fast, where nothing is to be kept."""
    return ["--unsafe-no-fsync"] if etcd_executable.can_skip_sync else []


@pytest.fixture(scope="session")
def etcd(
    etcd_executable: EtcdExecutable,
    etcd_options: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EtcdServers]:
    """One member, for all tests together."""
    folder = tmp_path_factory.mktemp("etcd")
    with EtcdServers(etcd_executable, folder, free_ports(1), options=etcd_options) as servers:
        yield servers


@pytest.fixture
def three_members(
    etcd_executable: EtcdExecutable, etcd_options: list[str], tmp_path: Path
) -> Iterator[EtcdServers]:
    """Three members, for one test that may do them harm."""
    with EtcdServers(etcd_executable, tmp_path, free_ports(3), options=etcd_options) as servers:
        yield servers
