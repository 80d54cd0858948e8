"""Runs a script over a driver: says what it says, and holds what comes against what it expects."""

from typing import Any, NoReturn

from kit.drivers import Driver
from kit.link import HandshakeError, Link
from kit.script import Act, Ctl, Expect, Script, Send, Step, Wait
from kit.values import ABSENT, Names, matches
from kit.wire import METHODS, Item

_CLOSES = ("connection.close", "channel.close")
_END_S = 5
_CONFIRMS = {"acked": "basic.ack", "nacked": "basic.nack"}


class Parted(AssertionError):
    """The broker left the script; the text is the conversation so far, and where it parted."""


class Conversation:
    """Runs scripts over ``driver``, one after the other."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.links: dict[str, Link] = {}
        self.declared: dict[tuple[str, str], None] = {}
        """What the script has asked to be made: ("queue" or "exchange", name)."""
        self._variables: dict[str, Any] = {}
        self._transcript: list[str] = []
        self._script: Script | None = None
        self._step: Step | None = None

    def run(self, script: Script) -> None:
        """Run ``script`` to its end. Raises `Parted`, or `kit.drivers.Skipped`."""
        self._script = script
        for step in script.steps:
            self._step = step
            self._do(step)
        self._step = None
        self._check_nothing_is_left()

    def _do(self, step: Step) -> None:
        if not isinstance(step, Expect):
            self._transcript.append(step.text)
        try:
            if isinstance(step, Send):
                self._send(step)
            elif isinstance(step, Expect):
                self._expect(step)
            elif isinstance(step, Act):
                self._act(step)
            elif isinstance(step, Ctl):
                self._driver.operate(step.command)
            elif isinstance(step, Wait):
                self._driver.wait(step.seconds)
        except HandshakeError as error:
            self._part(str(error))

    def _part(self, why: str) -> NoReturn:
        assert self._script is not None
        script, step = self._script, self._step
        line = step.line if step else script.steps[-1].line
        where = f"line {line}: {step.text}" if step else "the end of the script"
        said = "\n".join(f"    {line}" for line in self._transcript)
        title = f"{script.file}.amqp:{line} {script.title}"
        raise Parted(f"{title}\n{said}\n  parted at {where}\n  {why}")

    # -- connections ---------------------------------------------------------------------------

    def _link(self, name: str, host: str = "127.0.0.1") -> Link:
        link = Link(name, self._driver.connect(host), lambda line: self._transcript.append(line))
        self.links[name] = link
        return link

    def _open_link(self, name: str) -> Link:
        """The connection, made when it is first spoken of."""
        link = self.links.get(name)
        if link is None:
            link = self._link(name)
            link.shake_hands(self._driver.patience_s)
        return link

    def _act(self, step: Act) -> None:
        args, named = self._evaluate(step.args)
        if step.name == "connect":
            link = self._link(step.connection, named.pop("host", "127.0.0.1"))
            link.pieces = named.pop("pieces", 0)
            link.shake_hands(self._driver.patience_s, **named)
        elif step.name == "socket":
            self._link(step.connection, **named)
        elif step.name == "send":
            self._open_link(step.connection).send_bytes(b"".join(args))
        elif step.name == "drop":
            self.links[step.connection].stream.drop()
        else:
            self._expect_end(self.links[step.connection])

    # -- out -----------------------------------------------------------------------------------

    def _send(self, step: Send) -> None:
        link = self._open_link(step.connection)
        self._see_to_channel(link, step)
        args, named = self._evaluate(step.args)
        if step.name in ("queue.declare", "exchange.declare"):
            kind = step.name.partition(".")[0]
            self.declared[kind, named.get(kind, "").translate({10: None, 13: None})] = None
        link.send(step.channel, step.name, args, named)

    def _see_to_channel(self, link: Link, step: Send) -> None:
        """A channel is opened when it is first spoken on, unless the script sees to that."""
        opened = link.open_channels
        if opened is None or step.channel == 0 or step.channel in opened:
            return
        opened.add(step.channel)
        if step.name != "channel.open":
            link.open_channel(step.channel, self._driver.patience_s)

    def _evaluate(self, args: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = Names(self._variables)
        names["__call"] = lambda *args, **named: (args, named)
        return eval(f"__call{args}", {"__builtins__": {}}, names)

    # -- in ------------------------------------------------------------------------------------

    def _expect(self, step: Expect) -> None:
        link = self._open_link(step.connection)
        args, named = self._evaluate(step.args)
        if step.name == "nothing":
            self._expect_nothing(link, step.channel)
        elif step.name == "heartbeat":
            self._expect_heartbeat(link)
        elif step.name in _CONFIRMS:
            self._expect_confirms(link, step.channel, _CONFIRMS[step.name], set(args))
        elif step.anywhere:
            self._expect_anywhere(link, step, named)
        else:
            item = link.next(step.channel, self._driver.patience_s)
            if item is None:
                self._part("nothing came")
            why = self._compare(step, self._with_short_forms(step, args, named), item)
            if why:
                self._part(f"this came: {item}\n  {why}")

    def _with_short_forms(
        self, step: Expect, args: tuple[Any, ...], named: dict[str, Any]
    ) -> dict[str, Any]:
        """Close has a short form: code, text, and the method at fault by name ("-": none)."""
        if step.name in _CLOSES and args:
            code, text, culprit = args
            index = 0 if culprit == "-" else METHODS[culprit].index
            fields = {"reply_code": code, "reply_text": text}
            return {**fields, "class_id": index >> 16, "method_id": index & 0xFFFF}
        if step.name == "protocol-header" and args:
            return {"octets": args[0]}
        if args:
            self._part(f"the fields of {step.name} have names")
        return named

    def _compare(self, step: Expect, fields: dict[str, Any], item: Item) -> str:
        """What is wrong with ``item``, or nothing."""
        if item.name != step.name:
            return f"expected: {step.name}"
        for name, expected in fields.items():
            actual = item.fields.get(name, ABSENT)
            expected = expected.decode() if name == "body" and expected == b"" else expected
            if not matches(expected, actual, self._variables):
                return f"{name}: expected {expected!r}, came {actual!r}"
        if item.name == "queue.declare-ok":
            self.declared["queue", item.fields["queue"]] = None
        return ""

    def _expect_end(self, link: Link) -> None:
        """RabbitMQ takes three seconds to end the connection of a client that it distrusts."""
        for _ in range(_END_S):
            if link.wait_for_end(min(1.0, self._driver.patience_s)):
                return
            self._driver.idle(1.0)
        self._part("the broker has not ended the connection")

    def _expect_nothing(self, link: Link, channel: int) -> None:
        while link.pull(self._driver.pause_s):
            pass
        if link.inbox[channel]:
            self._part(f"this came: {link.inbox[channel][0]}")

    def _expect_heartbeat(self, link: Link) -> None:
        while not link.heartbeats:
            if not link.pull(self._driver.patience_s):
                self._part("no heartbeat came")
        link.heartbeats = 0

    def _expect_confirms(self, link: Link, channel: int, name: str, tags: set[int]) -> None:
        """Publishes are confirmed, each on its own or several at once, in any order."""
        while tags:
            item = link.next(channel, self._driver.patience_s)
            if item is None or item.name != name:
                self._part(f"this came: {item or 'nothing'}; not yet confirmed: {sorted(tags)}")
            tag, multiple = item.fields["delivery_tag"], item.fields["multiple"]
            confirmed = {each for each in tags if each == tag or (multiple and each < tag)}
            if tag not in confirmed:
                self._part(f"confirmed without need: {item}")
            tags -= confirmed

    def _expect_anywhere(self, link: Link, step: Expect, named: dict[str, Any]) -> None:
        """One of those that have come is it; the others stay in order."""
        while True:
            for item in link.inbox[step.channel]:
                if not self._compare(step, named, item):
                    link.inbox[step.channel].remove(item)
                    return
            if not link.pull(self._driver.patience_s):
                came = ", ".join(map(str, link.inbox[step.channel])) or "nothing"
                self._part(f"not among what came: {came}")

    def _check_nothing_is_left(self) -> None:
        for link in self.links.values():
            while link.pull(self._driver.pause_s):
                pass
            if link.leftover:
                self._part(f"nobody expected: {', '.join(map(str, link.leftover))}")
