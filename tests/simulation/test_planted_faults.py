"""Faults that are planted into a cluster are found by its simulations, or these prove nothing."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from amqpbroker.cluster import remote_queue
from amqpbroker.cluster.attachment import Attachment
from amqpbroker.cluster.etcd.contract import KeyValue
from amqpbroker.cluster.feed import Feed
from amqpbroker.cluster.leavings import Leavings
from amqpbroker.cluster.remote import RemoteQueues
from amqpbroker.cluster.remote_queue import RemoteQueue
from amqpbroker.cluster.wire import Link
from amqpbroker.message import Origin
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.queues.queue import Outcome
from amqpbroker.queues.ready import Line
from amqpbroker.server.clustering import Clustering
from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.testing.history import What
from amqpbroker.testing.world import simulate
from tests.simulation.cluster_load import scenario

SEEDS_MAX = 20
"""So many clusters at most are needed to find any of these faults."""

Plant = Callable[[pytest.MonkeyPatch], None]


def nothing_comes_back_from_a_broken_stream(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attachment, "work_off", lambda self, work_max: 0)


def what_comes_back_from_a_broken_stream_says_nothing(patch: pytest.MonkeyPatch) -> None:
    settle = ClassicQueue.settle

    def work_off(attachment: Attachment, work_max: int) -> int:
        for run in attachment.held.take_up_to(1 << 20):
            assert isinstance(attachment.queue, ClassicQueue)
            settle(attachment.queue, run, Outcome.RETURN)
        return 0

    patch.setattr(Attachment, "work_off", work_off)


def what_is_on_its_way_to_another_node_is_confirmed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RemoteQueue, "committed", property(lambda self: self._sent))


def what_never_left_for_another_node_is_confirmed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RemoteQueue, "_note_refused", lambda self, run: None)


def what_is_not_synced_is_confirmed(patch: pytest.MonkeyPatch) -> None:
    append = DiskLog.append

    def append_at_once(log: DiskLog, origin: Origin, raws: list[bytes]) -> int:
        end = append(log, origin, raws)
        log.committed = end
        return end

    patch.setattr(DiskLog, "append", append_at_once)


def what_is_not_answered_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    """On a new stream a node publishes again what the last one brought no answer for."""
    sent: dict[RemoteQueue, list[Any]] = {}
    send, note, up = RemoteQueue.send_waiting, RemoteQueue.note_committed, RemoteQueues.up

    def send_waiting(queue: RemoteQueue) -> None:
        waiting = list(queue._waiting)
        send(queue)
        gone = waiting[: len(waiting) - len(queue._waiting)]
        runs = [each for each in gone if isinstance(each, remote_queue.Published)]
        sent.setdefault(queue, []).extend(runs)

    def note_committed(queue: RemoteQueue, count: int, refused: list[range]) -> None:
        note(queue, count, refused)
        sent[queue] = [run for run in sent[queue] if run.first + len(run.raws) > count]

    def come_up(queues: RemoteQueues, link: Link) -> None:
        up(queues, link)
        for queue in queues.nodes[link.node].queues.values():
            for run in sent.pop(queue, []):
                for origin, raw in zip(run.origins, run.raws, strict=True):
                    queue.publish(origin, [raw])

    patch.setattr(RemoteQueue, "send_waiting", send_waiting)
    patch.setattr(RemoteQueue, "note_committed", note_committed)
    patch.setattr(RemoteQueues, "up", come_up)


def what_comes_together_goes_on_in_reverse(patch: pytest.MonkeyPatch) -> None:
    publish = RemoteQueue.publish

    def reverse(queue: RemoteQueue, origin: Origin, raws: list[bytes]) -> int:
        return publish(queue, origin, raws[::-1])

    patch.setattr(RemoteQueue, "publish", reverse)


def what_was_overtaken_says_nothing(patch: pytest.MonkeyPatch) -> None:
    """What goes back unseen comes again as if it had never been handed out, later ones or not."""
    unseen: dict[Line, set[int]] = {}
    take, give_back = Line.take, Line.give_back

    def give_back_unseen(line: Line, run: range, seen: bool = True) -> None:
        give_back(line, run, seen)
        if not seen:
            unseen.setdefault(line, set()).update(run)

    def take_unseen(line: Line, readable: int, limit: int) -> tuple[range, bool]:
        run, redelivered = take(line, readable, limit)
        here = unseen.setdefault(line, set()).intersection(run)
        unseen[line] -= here
        return run, redelivered and not here

    patch.setattr(Line, "give_back", give_back_unseen)
    patch.setattr(Line, "take", take_unseen)


def what_was_deleted_meanwhile_stays(patch: pytest.MonkeyPatch) -> None:
    """A node that was without etcd for long reads it anew, and forgets nothing."""
    load = Feed.load

    def load_more(feed: Feed, items: Iterable[KeyValue], revision: int) -> None:
        known, feed._known = feed._known, {}
        load(feed, items, revision)
        feed._known = known | feed._known

    patch.setattr(Feed, "load", load_more)


def what_a_dead_node_leaves_stays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leavings, "collect", lambda *_: None)
    patch.setattr(Leavings, "of_earlier_lives", lambda _: None)
    patch.setattr(Clustering, "_drop_unclaimed", lambda _: None)


LOST, UNFLAGGED, INVERTED = What.LOST.value, What.UNFLAGGED.value, What.INVERTED.value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "verdict"),
    [
        (nothing_comes_back_from_a_broken_stream, LOST),
        (what_comes_back_from_a_broken_stream_says_nothing, UNFLAGGED),
        (what_is_on_its_way_to_another_node_is_confirmed, LOST),
        (what_never_left_for_another_node_is_confirmed, LOST),
        (what_is_not_synced_is_confirmed, LOST),
        (what_is_not_answered_is_sent_again, UNFLAGGED),
        (what_comes_together_goes_on_in_reverse, INVERTED),
        (what_was_overtaken_says_nothing, INVERTED),
        (what_was_deleted_meanwhile_stays, ""),
        (what_a_dead_node_leaves_stays, "exclusive queues are left"),
    ],
)
def test_a_planted_fault_is_found(
    plant: Plant, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in range(SEEDS_MAX):
        text = found(seed)
        if text:
            print(f"seed {seed}: {text}")
            assert verdict in text
            return
    pytest.fail(f"{SEEDS_MAX} clusters were the same with it as without")


def found(seed: int) -> str:
    """What the simulation of a seed says is wrong."""
    text = ""
    try:
        simulate(seed, scenario)
    except* AssertionError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        text = str(error)
    return text
