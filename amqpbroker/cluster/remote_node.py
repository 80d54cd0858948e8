"""Another node, and what is said to it of the queues that it leads.

`RemoteQueue`s say what they have to say once a turn, in the order in which they were woken; the
node sees that the stream takes it, that messages for several of them travel once, and who gets the
answers.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.queue_frames import Numbers
from amqpbroker.cluster.remote_consumers import Purses, Subscription
from amqpbroker.cluster.remote_reply import BACKLOG_BYTES_MAX
from amqpbroker.cluster.reports import Inquiry
from amqpbroker.cluster.wire import OUTBOX_BYTES_HIGH, Link
from amqpbroker.errors import LinkFault
from amqpbroker.message import Origin
from amqpbroker.queues.queue import Pending

if TYPE_CHECKING:
    from amqpbroker.cluster.remote_queue import RemoteQueue

_CONTROL_WORK = 16
_QUEUES_AT_ONCE = 256
"""Those that are let speak in turn before others have the processor."""
_LETTER_WORK_MAX = 2048
"""Messages times queues."""


@attrs.define
class Published:
    """Messages that wait to be sent, neighbours; ``first`` is the number of the first."""

    first: int
    ttl_ms: int | None
    origins: list[Origin]
    raws: list[bytes]
    size: int


@attrs.define
class _Letter:
    """Messages on their way to queues, each with the number that the first has for it."""

    published: Published
    addressees: list[tuple[int, int]]

    def add(self, queue_id: int, published: Published) -> bool:
        """Send them to another queue as well, if these are the same; whether they are.

        And if their sum is not more than others at the leader can wait for.
        """
        own = self.published
        if (
            len(own.raws) * len(self.addressees) >= _LETTER_WORK_MAX
            or own.ttl_ms != published.ttl_ms
            or own.raws != published.raws
            or own.origins != published.origins
        ):
            return False
        self.addressees.append((queue_id, published.first))
        return True

    def encode(self) -> list[bytes]:
        """The payload of a frame."""
        own = self.published
        return frames.encode_publish(self.addressees, own.ttl_ms, own.origins, own.raws)


class RemoteNode:
    """Another node, as the leader of queues."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = None
        """The stream to it, while it is up."""
        self.queues: dict[int, RemoteQueue] = {}
        """Those that it leads, by id."""
        self.spoken_of: dict[RemoteQueue, None] = {}
        """Those that were spoken of on the stream."""
        self.speaking: dict[RemoteQueue, None] = {}
        """Those that have something to say, and wait for room on the stream."""
        self.subscriptions: dict[int, Subscription] = {}
        self.purses = Purses()
        self.questions: dict[int, tuple[RemoteQueue | None, Pending[Any]]] = {}
        self._inquiries: dict[int, Inquiry] = {}
        self._letter: _Letter | None = None
        self._number = 0
        self._known: frames.Origins = {}
        self._refreshing: tuple[int, Iterator[RemoteQueue]] | None = None
        """The question for the numbers of all queues, and those that were not told yet."""

    @property
    def is_up(self) -> bool:
        """Whether there is a stream."""
        return self.link is not None

    def next_number(self) -> int:
        """A number that nothing else on the stream has."""
        self._number += 1
        return self._number

    def forget(self, queue: "RemoteQueue") -> None:
        """A queue is deleted."""
        self.queues.pop(queue.definition.log_id, None)
        self.spoken_of.pop(queue, None)
        self.speaking.pop(queue, None)

    def down(self) -> None:
        """The stream is broken."""
        self.link = None
        self._known.clear()
        self._refreshing = None
        spoken_of, self.spoken_of = self.spoken_of, {}
        questions, self.questions = self.questions, {}
        inquiries, self._inquiries = self._inquiries, {}
        for inquiry in inquiries.values():
            inquiry.fail()
        for queue, _ in questions.values():
            if queue is not None:
                spoken_of[queue] = None  # Perhaps what it asked was not sent yet.
        for queue in spoken_of:
            queue.node_down()
        for queue, asked in questions.values():
            if queue is not None:
                asked.fail(queue.absent())
            else:
                asked.fail(LinkFault("the stream is broken"))

    def drained(self) -> None:
        """There is room on the stream again."""
        for queue in self.speaking:
            queue.drained()

    # -- sending -------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether there is a stream that takes more."""
        return self.link is not None and self.link.outbox_bytes <= OUTBOX_BYTES_HIGH

    def speak(self) -> None:
        """Send what queues have to say, as far as there is room on the stream."""
        for queue in list(islice(self.speaking, _QUEUES_AT_ONCE)):
            queue.send_waiting()
        self._post()

    def publish(self, queue_id: int, published: Published) -> None:
        """Have messages sent to a queue; to several in a row that have the same ones, at once."""
        letter = self._letter
        if letter is None or not letter.add(queue_id, published):
            self._post()
            self._letter = _Letter(published, [(queue_id, published.first)])

    def send(self, kind: int, pieces: list[bytes]) -> None:
        """Send something else."""
        self._post()
        if self.link is not None:
            self.link.send(kind, pieces)

    def _post(self) -> None:
        letter, self._letter = self._letter, None
        if letter is not None and self.link is not None:
            self.link.send(frames.PUBLISH, letter.encode())

    # -- frames --------------------------------------------------------------------------------

    def frame(self, kind: int, payload: bytes) -> int:
        """A frame has come; the work it was. Raises `LinkFault`."""
        if kind == frames.DELIVER:
            return self._deliver(payload)
        if kind == frames.COMMITTED:
            told = frames.decode_committed(payload)
            for queue_id, count, refused in told:
                queue = self.queues.get(queue_id)
                if queue is not None:
                    queue.note_committed(count, refused)
            return len(told)
        if kind == frames.GOT:
            number, got = frames.decode_got(payload, self._known)
            self._asked(number)[1].resolve(got)
        elif kind == frames.ANSWER:
            self._answer(frames.decode_answer(payload))
        else:
            raise LinkFault(f"a frame of kind {kind} is no answer")
        return _CONTROL_WORK

    def _deliver(self, payload: bytes) -> int:
        number, account, indexes, batch, redelivered = frames.decode_deliver(payload, self._known)
        self.purses.take(account, len(indexes))
        subscription = self.subscriptions.get(number)
        if subscription is not None:  # Else the queue is deleted, which is not known there yet.
            subscription.queue.take(subscription, account, indexes, batch, redelivered)
        return len(indexes)

    def _asked(self, number: int) -> "tuple[RemoteQueue | None, Pending[Any]]":
        try:
            return self.questions.pop(number)
        except KeyError:
            raise LinkFault("an answer that nobody has asked for") from None

    def _answer(self, answer: frames.Answer) -> None:
        inquiry = self._inquiries.get(answer.number)
        if inquiry is not None:
            self._take_rows(inquiry, answer)
            return
        if self._refreshing is not None and answer.number == self._refreshing[0]:
            self._note_numbers(answer, self._refreshing[1])
            return
        queue, asked = self._asked(answer.number)
        if isinstance(answer, frames.Failed):
            if not answer.error and queue is not None:
                asked.fail(queue.unknown())
            else:
                asked.fail(answer.to_error())
        elif isinstance(answer, Numbers):
            asked.resolve(answer.queues)
        elif isinstance(answer, frames.Rows):
            raise LinkFault("rows of no report")
        else:
            asked.resolve(answer.count)

    # -- direct replies ------------------------------------------------------------------------

    def reply(self, address: str, origin: Origin, raws: list[bytes]) -> bool:
        """Send direct replies to a channel there; whether there is a stream with room for them."""
        link = self.link
        if link is None or link.outbox_bytes > BACKLOG_BYTES_MAX:
            return False
        link.send(frames.REPLY, frames.encode_reply(address, origin, raws))
        return True

    def has_reply_address(self, address: str) -> bool | Pending[bool]:
        """Whether a channel there waits for direct replies at ``address``."""
        if self.link is None:
            return False
        return self._count(lambda number: frames.FindReply(number, address)).chain(bool)

    def count(self, what: str, name: str) -> Pending[int]:
        """How many connections or channels somebody has there; 0 when the stream breaks."""
        return self._count(lambda number: frames.Count(number, what, name))

    def _count(self, question: Callable[[int], frames.Question]) -> Pending[int]:
        """Ask for a count that is no queue's; 0 when there is no answer."""
        number = self.next_number()
        asked: Pending[int] = Pending()
        counted: Pending[int] = Pending()
        asked.then = counted.resolve
        asked.otherwise = lambda _: counted.resolve(0)
        self.questions[number] = None, asked
        self._say(question(number))
        return counted

    def _say(self, question: frames.Question) -> None:
        """Send a question at once: it overtakes what queues have to say."""
        assert self.link is not None
        self.link.send(frames.QUESTION, frames.encode_control(question))

    # -- reports -------------------------------------------------------------------------------

    def inquire(self, what: str, about: Mapping[str, str]) -> Inquiry:
        """Ask for a report; it has failed already if nobody is there."""
        inquiry = Inquiry(self.name)
        if self.link is None:
            inquiry.fail()
            return inquiry
        number = self.next_number()
        self._inquiries[number] = inquiry
        self._say(frames.Report(number, what, dict(about)))
        return inquiry

    def _take_rows(self, inquiry: Inquiry, answer: frames.Answer) -> None:
        if isinstance(answer, frames.Rows):
            inquiry.take(answer.rows, answer.is_last)
        else:
            inquiry.fail()
        if inquiry.is_over:
            del self._inquiries[answer.number]

    # -- numbers -------------------------------------------------------------------------------

    @property
    def is_refreshing(self) -> bool:
        """Whether not all numbers have come that were asked for."""
        return self._refreshing is not None

    def refresh(self) -> None:
        """Ask for the numbers of all queues."""
        if self.link is None or self._refreshing is not None or not self.queues:
            return
        number = self.next_number()
        self._refreshing = number, iter(list(self.queues.values()))
        self._say(frames.Stat(number, list(self.queues), in_full=True))

    def _note_numbers(self, answer: frames.Answer, queues: "Iterator[RemoteQueue]") -> None:
        """The numbers of the next queues have come."""
        if not isinstance(answer, Numbers):
            raise LinkFault("these are no numbers of queues")
        for numbers, queue in zip(answer.queues, queues, strict=False):
            if numbers is not None:
                queue.numbers = numbers
        if answer.is_last:
            self._refreshing = None
