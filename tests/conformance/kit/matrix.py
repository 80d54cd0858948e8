"""Every method of AMQP, in every situation in which it may be wrong.

A cell of the matrix is a situation and a method: what the broker answers, and whether its
neighbours (another channel of the connection, another connection) go on as if nothing had happened.
`matrix.txt` has the answers.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from kit.drivers import Driver
from kit.link import Link
from kit.values import ABSENT
from kit.wire import METHODS, Item

Answers = dict[tuple[str, str], list[str]]
"""Lines as a script would expect them, by situation and frame."""
DECLARED = [("queue", "q"), ("exchange", "e"), ("exchange", "f"), ("queue", "own")]
"""What a world leaves behind."""

_KEY = {"routing_key": "k"}
_BINDING = {"queue": "q", "exchange": "e", **_KEY}
_EXCHANGE_BINDING = {"destination": "f", "source": "e", **_KEY}
_START = {"mechanism": "PLAIN", "response": "\0guest\0guest", "locale": "en_US"}

_ARGUMENTS: dict[str, dict[str, Any]] = {
    "connection.start-ok": _START,
    "connection.tune-ok": {"channel_max": 2047, "frame_max": 131072},
    "connection.open": {"virtual_host": "/"},
    "connection.update-secret": {"new_secret": "guest", "reason": "because"},
    "channel.flow": {"active": True},
    "channel.flow-ok": {"active": True},
    "exchange.declare": {"exchange": "e", "type": "direct"},
    "exchange.delete": {"exchange": "e"},
    "exchange.bind": _EXCHANGE_BINDING,
    "exchange.unbind": _EXCHANGE_BINDING,
    "queue.declare": {"queue": "q"},
    "queue.bind": _BINDING,
    "queue.unbind": _BINDING,
    "queue.purge": {"queue": "q"},
    "queue.delete": {"queue": "q"},
    "basic.consume": {"queue": "q", "consumer_tag": "new"},
    "basic.cancel": {"consumer_tag": "c"},
    "basic.get": {"queue": "q"},
    "basic.publish": {"exchange": "e", **_KEY, "mandatory": True, "body": "m"},
    "basic.ack": {"delivery_tag": 1},
    "basic.nack": {"delivery_tag": 1, "requeue": True},
    "basic.reject": {"delivery_tag": 1},
    "basic.recover": {"requeue": True},
    "basic.recover-async": {"requeue": True},
    "access.request": {"realm": "/data"},
}
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "exchange.declare passive": ("exchange.declare", {"exchange": "e", "passive": True}),
    "queue.declare passive": ("queue.declare", {"queue": "q", "passive": True}),
    "basic.publish by name": ("basic.publish", {"routing_key": "q", "body": "m"}),
    "basic.consume exclusive": ("basic.consume", {"queue": "q", "exclusive": True}),
    "basic.qos global": ("basic.qos", {"prefetch_count": 1, "global_": True}),
    "basic.recover in place": ("basic.recover", {"requeue": False}),
    "channel.flow stop": ("channel.flow", {"active": False}),
    "queue.declare-ok": ("queue.declare-ok", {"queue": "q"}),
}
_CLIENTS_ANSWERS = {
    *("connection.start-ok", "connection.secure-ok", "connection.tune-ok"),
    *("connection.close-ok", "channel.flow-ok", "channel.close-ok", "basic.cancel-ok"),
}
_SERVERS_OWN = {
    *("connection.start", "connection.secure", "connection.tune"),
    *("connection.blocked", "connection.unblocked"),
    *("basic.return", "basic.get-empty"),
}


def _is_the_clients(name: str) -> bool:
    return name in _CLIENTS_ANSWERS or not (name.endswith("-ok") or name in _SERVERS_OWN)


FRAMES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, _ARGUMENTS.get(name, {})) for name in METHODS if _is_the_clients(name)},
    **_VARIANTS,
}
"""What is sent: all that a client may say, variants of some, and two methods of the server's."""


@attrs.frozen
class Situation:
    """What has happened before; ``prepare`` makes it so, ``channel`` is where the method goes."""

    name: str
    prepare: Callable[["World"], Link]
    channel: int = 1
    whole_world: bool = True
    """Whether the exchanges and the queue are there that methods speak of."""


class World:
    """What a cell finds: exchanges e and f, queue q, and a neighbour with a queue of its own."""

    def __init__(self, driver: Driver, whole: bool) -> None:
        self.driver = driver
        self.neighbour = self.connect("b", channels=(1,))
        self._call(self.neighbour, "queue.declare", queue="own", exclusive=True)
        self._call(self.neighbour, "confirm.select")
        if whole:
            self._call(self.neighbour, "exchange.declare", exchange="e", type="direct")
            self._call(self.neighbour, "exchange.declare", exchange="f", type="fanout")
            self._call(self.neighbour, "queue.declare", queue="q")
            self._call(self.neighbour, "queue.bind", **_BINDING)
            self._call(self.neighbour, "exchange.bind", **_EXCHANGE_BINDING)
            for body in ("1", "2"):
                self.neighbour.send(1, "basic.publish", (), {"routing_key": "q", "body": body})
                self._next(self.neighbour, 1)

    def connect(self, name: str, **options: Any) -> Link:
        """A connection, as far as ``options`` say."""
        link = Link(name, self.driver.connect("127.0.0.1"), lambda line: None)
        link.shake_hands(self.driver.patience_s, **options)
        return link

    def _next(self, link: Link, channel: int) -> Item:
        item = link.next(channel, self.driver.patience_s)
        assert item is not None
        return item

    def _call(self, link: Link, name: str, channel: int = 1, **arguments: Any) -> Item:
        link.send(channel, name, (), arguments)
        return self._next(link, channel)

    def check_neighbours(self, link: Link, answers: list[str]) -> None:
        """The other connection goes on, and the other channel if its connection does."""
        publish = {"routing_key": "own", "body": "m"}
        self.neighbour.send(1, "basic.publish", (), publish)
        assert self._next(self.neighbour, 1).name == "basic.ack"
        assert self._call(self.neighbour, "basic.get", queue="own").name == "basic.get-ok"
        over = link.stream.ended or any("connection.close" in answer for answer in answers)
        if link.open_channels and not over:
            assert self._call(link, "basic.qos", channel=2).name == "basic.qos-ok"

    # -- situations ----------------------------------------------------------------------------

    def working(self, user: str = "guest") -> Link:
        """A connection with two channels."""
        link = self.connect("a", user=user, password=user, channels=(1, 2))
        link.open_channels = {1, 2}
        return link

    def consuming(self) -> Link:
        """Channel 1 has a message to settle, and a consumer that has no room for another."""
        link = self.working()
        self._call(link, "basic.qos", prefetch_count=1)
        self._call(link, "basic.consume", queue="q", consumer_tag="c")
        assert self._next(link, 1).name == "basic.deliver"
        return link

    def after(self, *names: str, wait: bool = True) -> Link:
        """Channel 1 has said these things."""
        link = self.working()
        for name in names:
            link.send(1, name, (), {})
            if wait:
                self._next(link, 1)
        return link

    def in_content(self, header: bool) -> Link:
        """Channel 1 has begun to publish."""
        link = self.working()
        link.send(1, "basic.publish", (), {"routing_key": "q", "body": ABSENT})
        if header:
            link.send(1, "header", (), {"body_size": 5})
        return link

    def failed(self) -> Link:
        """Channel 1 is closed by the broker, and has not confirmed that."""
        link = self.working()
        assert self._call(link, "queue.purge", queue="nope").name == "channel.close"
        return link

    def closing(self) -> Link:
        """The client has asked to close the connection."""
        link = self.working()
        link.send(0, "connection.close", (), {})
        assert self._next(link, 0).name == "connection.close-ok"
        link.open_channels = None
        return link


SITUATIONS = (
    Situation("all is well", World.consuming),
    Situation("nothing is there", World.working, whole_world=False),
    Situation("the user may not configure", lambda world: world.working("noconfigure")),
    Situation("the user may not write", lambda world: world.working("nowrite")),
    Situation("the user may not read", lambda world: world.working("noread")),
    Situation("the user may do nothing", lambda world: world.working("nothing")),
    Situation("before start-ok", lambda world: world.connect("a", until="protocol-header"), 0),
    Situation("before tune-ok", lambda world: world.connect("a", until="start-ok"), 0),
    Situation("before open", lambda world: world.connect("a", until="tune-ok"), 0),
    Situation("before open, on a channel", lambda world: world.connect("a", until="tune-ok"), 1),
    Situation("on channel 0", World.working, 0),
    Situation("on a channel that is not open", World.working, 3),
    Situation("on a channel that was closed", lambda world: world.after("channel.close")),
    Situation("on a channel that the broker has closed", World.failed),
    Situation("after the connection was closed", World.closing),
    Situation("where a header is due", lambda world: world.in_content(header=False)),
    Situation("where a body is due", lambda world: world.in_content(header=True)),
    Situation("in confirm mode", lambda world: world.after("confirm.select")),
    Situation("in a transaction", lambda world: world.after("tx.select")),
)
USERS = {
    "noconfigure": ('""', ".*", ".*"),
    "nowrite": (".*", '""', ".*"),
    "noread": (".*", ".*", '""'),
    "nothing": ('""', '""', '""'),
}
"""Users, whose passwords are their names, with what they may configure, write and read."""


def make_users(driver: Driver) -> None:
    """Have an operator make the users of the matrix. Raises `kit.drivers.Skipped`."""
    for user, patterns in USERS.items():
        driver.operate(f"add_user {user} {user}")
        driver.operate(f"set_permissions -p / {user} {' '.join(patterns)}")


def ask(world: World, situation: Situation, frame: str) -> list[str]:
    """What the broker answers, as a script would expect it.

    When it ends the connection of a client that it does not trust is no part of the answer:
    RabbitMQ takes seconds for that.
    """
    link = situation.prepare(world)
    name, arguments = FRAMES[frame]
    link.send(situation.channel, name, (), dict(arguments))
    while link.pull(world.driver.pause_s):
        pass
    came = sorted(link.leftover, key=lambda item: item.channel)
    answers = [f"{item.channel} < {_shown(item)}" for item in came]
    link.inbox.clear()
    world.check_neighbours(link, answers)
    link.stream.drop()
    world.neighbour.stream.drop()
    return answers


_BY_INDEX = {form.index: name for name, form in METHODS.items()}


def _shown(item: Item) -> str:
    if item.name not in ("channel.close", "connection.close"):
        return item.name
    fields = item.fields
    index = fields["class_id"] << 16 | fields["method_id"]
    culprit = _BY_INDEX[index] if index else "-"
    return f'{item.name}({fields["reply_code"]}, {fields["reply_text"]!r}, "{culprit}")'


# -- answers -----------------------------------------------------------------------------------


def load_answers(path: Path) -> Answers:
    """Answers by situation and frame."""
    return {(situation, frame): answers for situation, frame, answers in _lines(path)}


def _lines(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    situation = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            situation = line[3:]
        elif line and not line.startswith("#"):
            frame, _, answers = line.partition(" | ")
            yield situation, frame.strip(), [a for a in answers.split(" ; ") if a != "nothing"]


def write_answers(path: Path, answers: Answers) -> None:
    """Write what was found, a situation after the other."""
    width = max(map(len, FRAMES))
    lines = ["# Situation by situation: what is sent, and what comes back. See kit/matrix.py."]
    for situation in SITUATIONS:
        lines += ["", f"== {situation.name}"]
        for frame in FRAMES:
            found = " ; ".join(answers[situation.name, frame]) or "nothing"
            lines.append(f"{frame:{width}} | {found}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
