"""Our own broker on a data directory, and what a restart must bring back."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import durable
from bench.checks import Mismatch
from bench.client import Client
from bench.load import prepare
from bench.report import filesystem
from bench.scenarios import BACKLOG, SMALL_BACKLOG
from bench.subjects import OwnBroker, helpers_bytes


@pytest.mark.slow
def test_a_restart_brings_every_message_back(tmp_path: Path):
    with OwnBroker(tmp_path).broker(durable=True) as broker:
        seconds = durable.restart(broker, BACKLOG, 500, 100)
    assert all(value > 0 for value in seconds)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_restart_brings_the_messages_of_many_queues_back(tmp_path: Path):
    with OwnBroker(tmp_path).broker(durable=True) as broker:
        seconds = durable.restart_with_queues(broker, SMALL_BACKLOG, 50, 100)
    assert all(value > 0 for value in seconds)


@pytest.mark.slow
def test_a_queue_that_does_not_hold_what_it_must_is_caught():
    with OwnBroker(Path()).broker() as broker, Client(broker.url) as director:
        director.open_channel()
        prepare(director, BACKLOG)
        durable.must_hold(director, BACKLOG.queue(0), 0)
        with pytest.raises(Mismatch, match="0 messages of 1"):
            durable.must_hold(director, BACKLOG.queue(0), 1)


@pytest.mark.slow
def test_our_broker_is_another_process_after_a_restart(tmp_path: Path):
    with OwnBroker(tmp_path).broker(durable=True) as broker:
        assert broker.restart is not None
        stop_s, again = broker.restart(signal.SIGKILL)
        assert stop_s > 0
        assert again.pid != broker.pid
        Client(again.url).close()


def test_processes_that_a_process_has_started_count():
    command = [sys.executable, "-c", "print(flush=True); input()"]
    before = helpers_bytes(os.getpid())
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert helpers_bytes(os.getpid()) > before
        process.communicate(b"\n")


@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="nothing says what is mounted")
def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount():
    assert filesystem(Path("/proc/self")) == "proc"
    assert filesystem(Path()) not in ("", "proc")
