"""No confirmed message is lost, whatever befalls the node: ``python -m tests.crash`` does more."""

from pathlib import Path

import pytest

from amqpbroker.testing.disk_shim import DiskShim
from tests.crash.broker import Broker, DidNotStart
from tests.crash.runs import run_failing_disk, run_full_disk, run_kills, run_recorded

pytestmark = pytest.mark.slow

KILLS, MESSAGES = 10, 20_000


@pytest.fixture
def broker(tmp_path: Path):
    """A node on a disk that is as it is."""
    broker = Broker.on_disk(tmp_path / "node", tmp_path / "broker.log")
    yield broker
    if broker.process is not None:
        broker.kill(with_helpers=True)
        broker.end()


@pytest.fixture
def watched(broker: Broker, shim: DiskShim) -> Broker:
    """A node on the disk that the shim watches."""
    broker.settings = ("--data-dir", str(shim.folder / "node"), "--name", "rabbit@crash")
    broker.environment = dict(shim.environment)
    shim.delay_syncs(2000)
    return broker


async def test_a_killed_node_has_every_confirmed_message(broker: Broker) -> None:
    report = await run_kills(broker, KILLS, MESSAGES, seed=1)
    assert report.is_sound, report
    assert report.kills >= KILLS
    assert report.in_flight_min > 0
    assert report.confirmed >= MESSAGES


@pytest.mark.parametrize("torn", [False, True], ids=["nothing unsynced", "a torn part of it"])
async def test_a_disk_that_keeps_only_what_was_synced_has_every_confirmed_message(
    watched: Broker, shim: DiskShim, torn: bool
) -> None:
    report = await run_kills(watched, KILLS, MESSAGES, seed=2, shim=shim, torn=torn)
    assert report.is_sound, report
    assert report.kills >= KILLS
    assert report.kills_with_loss > 0, "the disk had nothing to lose"


async def test_confirmed_messages_are_there_whatever_lies_in_segments(
    watched: Broker, shim: DiskShim
) -> None:
    watched.tiny = True
    report = await run_kills(watched, KILLS, MESSAGES, seed=4, shim=shim, torn=True)
    assert report.is_sound, report


async def test_without_syncs_confirmed_messages_are_found_to_be_lost(
    watched: Broker, shim: DiskShim
) -> None:
    shim.set_flags(pretend=True)
    report = await run_kills(watched, 2, 2000, seed=3, shim=shim)
    assert len(report.faults) > 100


async def test_every_confirm_is_sent_after_the_sync_that_covers_it(
    watched: Broker, shim: DiskShim
) -> None:
    shim.set_flags(record=True)
    order = await run_recorded(watched, shim, 5000)
    assert order.confirms >= 5000
    assert order.early == []


async def test_confirms_without_a_sync_are_found(watched: Broker, shim: DiskShim) -> None:
    shim.set_flags(record=True, pretend=True)
    order = await run_recorded(watched, shim, 500)
    assert len(order.unkept) == order.confirms >= 100  # A busy machine has time for no more.


@pytest.mark.parametrize("later", [1, 2, 5])
async def test_a_node_whose_sync_fails_ends_and_confirms_nothing_more(
    watched: Broker, shim: DiskShim, later: int
) -> None:
    shim.set_flags(record=True)
    failure = await run_failing_disk(
        watched, shim, lambda: shim.fail_sync(shim.syncs + later), lambda: shim.fail_sync(0)
    )
    assert failure.status == 70, failure.last_line
    assert failure.last_line.startswith("amqpbroker: the disk has failed: ")
    assert failure.order.confirms >= 1000
    assert failure.order.after_failed_sync == 0
    assert failure.order.early == []
    assert failure.report.is_sound, failure.report


@pytest.mark.parametrize("later", [1, 2, 4, 6])
async def test_a_node_whose_write_fails_ends_too(
    watched: Broker, shim: DiskShim, later: int
) -> None:
    watched.tiny = True  # So that it may be any file.
    shim.set_flags(record=True)
    failure = await run_failing_disk(
        watched, shim, lambda: shim.fail_write(shim.writes + later), lambda: shim.fail_write(0)
    )
    assert failure.status == 70, failure.last_line
    assert failure.order.early == []
    assert failure.report.is_sound, failure.report


@pytest.mark.parametrize("tiny", [False, True], ids=["large files", "small files"])
@pytest.mark.parametrize("limit_bytes", ["0", "50000000"], ids=["to the last octet", "to a limit"])
async def test_while_the_disk_is_full_consumers_go_on_and_publishers_wait(
    watched: Broker, shim: DiskShim, limit_bytes: str, tiny: bool
) -> None:
    watched.tiny = tiny
    watched.environment["AMQPBROKER_DISK_FREE_LIMIT"] = limit_bytes
    room_bytes = 200_000 + int(limit_bytes) // 2
    full = await run_full_disk(watched, shim, room_bytes, killed=False)
    assert full.report.is_sound, full.report
    assert full.consumed > 100
    assert full.blocked > 0


async def test_a_node_starts_with_a_little_room_and_consumers_make_more(
    watched: Broker, shim: DiskShim
) -> None:
    watched.environment["AMQPBROKER_DISK_FREE_LIMIT"] = "0"
    full = await run_full_disk(watched, shim, 200_000, killed=True)
    assert full.report.is_sound, full.report
    status, words = full.refusal
    assert status == 1
    assert "No space left on device" in words.splitlines()[-1]
    assert full.drained > 100


def test_a_new_node_on_a_full_disk_says_so_and_starts_when_there_is_room(
    watched: Broker, shim: DiskShim
) -> None:
    shim.room_bytes = 0
    with pytest.raises(DidNotStart) as refused:
        watched.start()
    status, words = refused.value.args
    assert status == 1
    assert "No space left on device" in words
    assert len(words.splitlines()) == 1
    assert not any(shim.folder.iterdir())
    shim.room_bytes = -1
    watched.start()
