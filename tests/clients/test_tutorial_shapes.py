"""The six programs that everybody writes first, as processes of their own."""

import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amqpbroker.testing.thread import VHostForTest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PATIENCE_S = 20


class Program:
    """A running program, whose lines can be waited for."""

    def __init__(self, name: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, HERE / name, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def line(self) -> str:
        """The next line."""
        return self._lines.get(timeout=PATIENCE_S)

    def lines(self, count: int) -> list[str]:
        return [self.line() for _ in range(count)]

    def press_enter(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> list[str]:
        """Wait until the program has ended by itself, and well; the lines not read yet."""
        assert self._process.wait(PATIENCE_S) == 0
        self._reader.join()
        return list(self._lines.queue)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


Start = Callable[..., Program]


@pytest.fixture
def start(amqp_vhost: VHostForTest) -> Iterator[Start]:
    """Start a program against the fresh virtual host."""
    programs: list[Program] = []

    def start(name: str, *arguments: str) -> Program:
        programs.append(Program(name, *arguments, "--url", amqp_vhost.url))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()


@pytest.fixture
def start_ready(start: Start) -> Start:
    """Start a program, and wait until it says that it is ready."""

    def start_ready(name: str, *arguments: str) -> Program:
        program = start(name, *arguments)
        assert program.line() == "ready"
        return program

    return start_ready


def test_hello_world_arrives(start: Start, start_ready: Start) -> None:
    receiver = start_ready("hello_world.py", "receive")

    sender = start("hello_world.py", "send", "hello world", "grüezi mitenand")

    assert sender.end() == ["sent hello world", "sent grüezi mitenand"]
    assert receiver.lines(2) == ["received hello world", "received grüezi mitenand"]


def test_what_was_sent_before_anybody_listened_is_kept(start: Start, start_ready: Start) -> None:
    start("hello_world.py", "send", "early").end()

    receiver = start_ready("hello_world.py", "receive")

    assert receiver.line() == "received early"


def test_a_worker_that_is_busy_gets_nothing_while_another_is_idle(
    start: Start, start_ready: Start
) -> None:
    busy = start_ready("work_queues.py", "worker", "--ask")
    start("work_queues.py", "add", "long").end()
    assert busy.line() == "began long"
    idle = start_ready("work_queues.py", "worker")

    start("work_queues.py", "add", "a", "b", "c").end()

    done = [f"{what} {task}" for task in "abc" for what in ("began", "finished")]
    assert idle.lines(6) == done
    busy.press_enter()
    assert busy.line() == "finished long"


def test_the_task_of_a_killed_worker_goes_to_another(start: Start, start_ready: Start) -> None:
    doomed = start_ready("work_queues.py", "worker", "--ask")
    start("work_queues.py", "add", "first", "second").end()
    assert doomed.line() == "began first"
    heir = start_ready("work_queues.py", "worker", "--ask")
    assert heir.line() == "began second"

    doomed.kill()
    heir.press_enter()

    assert heir.lines(2) == ["finished second", "began first again"]
    heir.press_enter()
    assert heir.line() == "finished first"


def test_every_subscriber_gets_a_copy(start: Start, start_ready: Start) -> None:
    listeners = [start_ready("publish_subscribe.py", "listen") for _ in range(3)]

    start("publish_subscribe.py", "say", "one", "two").end()

    for listener in listeners:
        assert listener.lines(2) == ["heard one", "heard two"]


def test_who_subscribes_later_does_not_get_what_was_before(
    start: Start, start_ready: Start
) -> None:
    start("publish_subscribe.py", "say", "early").end()
    listener = start_ready("publish_subscribe.py", "listen")

    start("publish_subscribe.py", "say", "late").end()

    assert listener.line() == "heard late"


def test_lines_go_where_their_severity_is_asked_for(start: Start, start_ready: Start) -> None:
    errors = start_ready("routing.py", "watch", "error")
    everything = start_ready("routing.py", "watch", "info", "warning", "error")

    for severity in ("info", "debug", "error", "warning", "error"):
        start("routing.py", "log", severity, "text").end()

    assert errors.lines(2) == ["error text"] * 2
    assert everything.lines(4) == ["info text", "error text", "warning text", "error text"]


def test_lines_go_where_a_pattern_fits_and_only_once(start: Start, start_ready: Start) -> None:
    kernel = start_ready("topics.py", "watch", "kern.*")
    both = start_ready("topics.py", "watch", "kern.*", "*.critical")
    everything = start_ready("topics.py", "watch", "#")
    topics = ["kern.info", "mail.info", "mail.critical", "kern.critical", "kern", "kern.a.critical"]
    marked = [*topics, "kern.end"]

    for topic in marked:
        start("topics.py", "log", topic, "x").end()

    assert everything.lines(7) == [f"{topic} x" for topic in marked]
    assert kernel.lines(3) == ["kern.info x", "kern.critical x", "kern.end x"]
    assert both.lines(4) == ["kern.info x", "mail.critical x", "kern.critical x", "kern.end x"]


def test_calls_get_their_own_answers(start: Start, start_ready: Start) -> None:
    servers = [start_ready("rpc.py", "serve") for _ in range(2)]

    caller = start("rpc.py", "call", "30", "1", "90", "0")
    other = start("rpc.py", "call", "10", "2")

    assert caller.end() == ["30 832040", "1 1", "90 2880067194370816120", "0 0"]
    assert other.end() == ["10 55", "2 1"]
    for server in servers:
        server.kill()


def test_a_call_is_answered_when_a_server_comes(start: Start, start_ready: Start) -> None:
    caller = start("rpc.py", "call", "12")

    server = start_ready("rpc.py", "serve")

    assert server.line() == "answered 12"
    assert caller.end() == ["12 144"]
