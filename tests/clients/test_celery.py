"""Celery as the programs of others use it: workers are processes of their own."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import celery
import kombu
import pytest
from celery.exceptions import TaskRevokedError

from amqpbroker.testing.relay import Relay
from amqpbroker.testing.thread import BrokerThread, VHostForTest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PATIENCE_S = 30


class Worker:
    """A running Celery worker; its log can be waited for."""

    def __init__(self, name: str, url: str, results: str, *options: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "celery_tasks", "worker"),
                *("--hostname", name, "--queues", "tasks", "--loglevel", "INFO", *options),
            ],
            cwd=HERE,
            env={**os.environ, "AMQP_URL": url, "RESULTS": results},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._log: list[str] = []
        self._logged = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._logged:
                self._log.append(line)
                self._logged.notify_all()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until the log has that many lines with ``text``."""
        with self._logged:
            assert self._logged.wait_for(
                lambda: sum(text in line for line in self._log) >= times, PATIENCE_S
            ), "".join(self._log)

    def end(self) -> int:
        """Wait until it has ended by itself; its exit status."""
        return self._process.wait(PATIENCE_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


class Shop:
    """Where tasks are ordered, and workers employed."""

    def __init__(self, url: str, results: str = "rpc://") -> None:
        self.app = celery.Celery(broker=url, backend=results, set_as_current=False)
        self.app.conf.task_default_queue = "tasks"
        self.address = (url, results)
        self._workers: list[Worker] = []

    def employ(self, name: str, *options: str, url: str | None = None) -> Worker:
        """A worker that is ready."""
        broker, results = self.address
        worker = Worker(f"{name}@shop", url or broker, results, *options)
        self._workers.append(worker)
        worker.wait_for("ready.")
        return worker

    def task(self, name: str, *arguments: Any) -> celery.Signature:
        return self.app.signature(f"celery_tasks.{name}", args=arguments)

    def order(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Have a task done; what comes has the result."""
        return self.task(name, *arguments).apply_async(**options)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        if self.address[1] == "rpc://":
            self.app.backend.result_consumer.stop()
        self.app.pool.force_close_all()
        self.app.close()


@contextmanager
def opened(shop: Shop) -> Iterator[Shop]:
    try:
        yield shop
    finally:
        shop.close()


@pytest.fixture(scope="module")
def shop(amqp_broker: BrokerThread) -> Iterator[Shop]:
    """A shop with one worker as Celery makes it by default: with processes below it."""
    with amqp_broker.vhost() as vhost, opened(Shop(vhost.url)) as shop:
        shop.employ("default", "--concurrency", "2", "--task-events")
        yield shop


@pytest.fixture
def empty_shop(amqp_vhost: VHostForTest) -> Iterator[Shop]:
    """A shop without workers."""
    with opened(Shop(amqp_vhost.url)) as shop:
        yield shop


ALONE = ("--pool", "solo", "--without-mingle", "--without-gossip")
"""A worker that does its work itself, and looks for no others: it starts faster."""


def test_tasks_are_done_and_their_results_come_back(shop: Shop) -> None:
    orders = [shop.order("add", number, number) for number in range(50)]

    assert [order.get(PATIENCE_S) for order in orders] == [2 * number for number in range(50)]


def test_a_task_that_fails_is_tried_again_later(shop: Shop) -> None:
    assert shop.order("fail_twice").get(PATIENCE_S) == 2


def test_a_task_is_not_done_before_its_time(shop: Shop) -> None:
    ordered = time.time()

    assert shop.order("now", countdown=0.3).get(PATIENCE_S) >= ordered + 0.3


def test_tasks_that_wait_for_their_time_keep_no_other_from_being_done(shop: Shop) -> None:
    """The worker raises the prefetch of its whole channel by each task that it holds back."""
    for _ in range(20):
        shop.order("now", countdown=1000)

    assert shop.order("add", 1, 2).get(PATIENCE_S) == 3


def test_a_group_and_a_chain_have_their_results(shop: Shop) -> None:
    group = celery.group(shop.task("add", number, 1) for number in range(10))
    chain = celery.chain(shop.task("add", 1, 2), shop.task("add", 3), shop.task("add", 4))

    assert group.apply_async().get(PATIENCE_S) == list(range(1, 11))
    assert chain.apply_async().get(PATIENCE_S) == 10


def test_a_chord_ends_with_what_all_its_tasks_gave(
    amqp_vhost: VHostForTest, tmp_path: Path
) -> None:
    """Celery has no chords with results over AMQP: these lie in files."""
    with opened(Shop(amqp_vhost.url, f"file://{tmp_path}")) as shop:
        shop.employ("chords", *ALONE)
        header = [shop.task("add", number, number) for number in range(10)]

        chord = celery.chord(header, shop.task("total"), app=shop.app)

        assert chord.apply_async(countdown=0.05).get(PATIENCE_S, interval=0.05) == 90


def test_workers_answer_what_they_are_asked(shop: Shop) -> None:
    name = "default@shop"
    later = shop.order("now", countdown=1000)
    ask = shop.app.control.inspect([name], timeout=PATIENCE_S)

    [answer] = shop.app.control.ping([name], timeout=PATIENCE_S)
    assert answer == {name: {"ok": "pong"}}
    assert [queue["name"] for queue in ask.active_queues()[name]] == ["tasks"]
    assert "celery_tasks.add" in ask.registered()[name]
    while later.id not in [held["request"]["id"] for held in ask.scheduled()[name]]:
        pass  # It has not come to the worker yet.


def test_a_task_that_is_revoked_is_not_done(shop: Shop) -> None:
    name, task_id = "default@shop", celery.uuid()
    shop.app.control.revoke(task_id, destination=[name], reply=True, timeout=PATIENCE_S)

    order = shop.order("now", task_id=task_id)

    with pytest.raises(TaskRevokedError):
        order.get(PATIENCE_S)


def test_who_listens_hears_what_workers_do(shop: Shop) -> None:
    heard: list[dict[str, Any]] = []

    with shop.app.connection() as connection:
        receiver = shop.app.events.Receiver(connection, handlers={"task-succeeded": heard.append})
        happened = receiver.itercapture(limit=None, timeout=PATIENCE_S, wakeup=True)
        next(happened)  # Workers have been asked for a sign of life.
        order = shop.order("add", 1, 2)
        while order.id not in [event["uuid"] for event in heard]:
            next(happened)
        happened.close()

    assert heard[-1]["result"] == "3"


def test_urgent_tasks_overtake_others(empty_shop: Shop) -> None:
    urgent = kombu.Queue("urgent", max_priority=9)
    worker = empty_shop.employ("urgent", *ALONE)
    orders = [empty_shop.order("now", queue=urgent, priority=priority) for priority in (1, 5, 1, 9)]

    empty_shop.app.control.add_consumer("urgent", destination=[worker.name])

    low, middle, low_too, high = (order.get(PATIENCE_S) for order in orders)
    assert high < middle < low < low_too


def test_the_task_of_a_worker_that_was_killed_is_done_by_another(empty_shop: Shop) -> None:
    order = empty_shop.order("kill_its_first_worker")
    doomed = Worker("doomed@shop", *empty_shop.address, *ALONE)

    assert doomed.end() < 0
    doomed.kill()
    heir = empty_shop.employ("heir", *ALONE)

    assert order.get(PATIENCE_S) == heir.name


def test_a_worker_whose_connection_breaks_comes_back(
    empty_shop: Shop, amqp_vhost: VHostForTest
) -> None:
    with Relay(amqp_vhost.host, amqp_vhost.port) as relay:
        url = amqp_vhost.url.replace(f":{amqp_vhost.port}/", f":{relay.port}/")
        worker = empty_shop.employ("persistent", *ALONE, url=url)

        relay.cut()

        assert empty_shop.order("add", 1, 2).get(PATIENCE_S) == 3
        worker.wait_for("Connection to broker lost")


def test_a_worker_ends_when_it_is_told_to(empty_shop: Shop) -> None:
    worker = empty_shop.employ("obedient", *ALONE)
    assert empty_shop.order("add", 1, 2).get(PATIENCE_S) == 3

    empty_shop.app.control.shutdown([worker.name])

    assert worker.end() == 0
