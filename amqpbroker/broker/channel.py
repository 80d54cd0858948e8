"""A channel: where a peer's methods become acts of the broker (AMQP 0-9-1, sections 1.5 to 1.9).

Publishing is the `Publisher`'s, what makes and ends queues and exchanges is in `topology`; here is
what is the channel's own: consumers and their credit, what they have not settled yet, and the modes
of confirms and transactions.
"""

import base64
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker import topology
from amqpbroker.broker.consumer import ChannelConsumer
from amqpbroker.broker.declaring import Asker, queue_to_read
from amqpbroker.broker.direct_reply import ReplyConsumer
from amqpbroker.broker.publisher import Publisher
from amqpbroker.broker.transaction import Transaction
from amqpbroker.broker.unsettled import Delivered, Returning, Unsettled
from amqpbroker.broker.vhost import VHost
from amqpbroker.cluster.remote_reply import REPLY_TO
from amqpbroker.definitions import Arguments
from amqpbroker.errors import (
    CommandInvalid,
    InternalError,
    NotAllowed,
    NotFound,
    NotKnown,
    PreconditionFailed,
    Unimplemented,
)
from amqpbroker.protocol.content import encode_get_ok, reframe
from amqpbroker.protocol.events import ChannelEvent, ChannelFault, Method, Publish, Settle
from amqpbroker.protocol.frames import AccessRequest, AccessRequestOk
from amqpbroker.queues.arguments import check_consume
from amqpbroker.queues.queue import Got, Outcome, Pending, Queue

if TYPE_CHECKING:
    from amqpbroker.broker.session import Session

Answer = TypeVar("Answer")

_GENERATED_NAME_BYTES = 16
_METHOD_WORK = 16
"""What a method other than publish and ack costs, in messages: so it counts in a turn."""


class Channel:
    """One channel of a session; its protocol side is open for as long as it lives."""

    def __init__(self, session: "Session", number: int) -> None:
        assert session.vhost is not None
        self.session = session
        self.number = number
        self.vhost: VHost = session.vhost
        self.turn = session.broker.turn
        self.waiting = False
        """Whether a method waits for its answer: later events are parked."""
        self.parked: deque[tuple[ChannelEvent, int]] = deque()
        self.publisher = Publisher(self)
        self.transaction: Transaction | None = None
        self.unsettled = Unsettled()
        self.unsettled_count = 0
        """Deliveries to consumers that take room in the channel's prefetch.

        What was asked for (basic.get) does not; what is settled in a transaction does until commit.
        """
        self.next_tag = 1
        """The delivery tag that the next delivery bears."""
        self.prefetch = 0
        """Unsettled deliveries that the channel as a whole may have; 0: any number."""
        self.prefetch_for_new = 0
        self.parked_consumers: dict[ChannelConsumer, None] = {}
        self.last_served: ChannelConsumer | None = None
        """Who was given messages last that take room in the channel's prefetch."""
        self.reply_consumer: ReplyConsumer | None = None
        self.last_queue: str | None = None
        self.consumers: dict[str, ChannelConsumer] = {}
        self._leaving: ChannelConsumer | None = None
        self._held_notices: list[Frame] | None = None
        self._outbox_bytes_max = session.broker.limits.outbox_bytes_max
        session.broker.churn.channels_created += 1

    # -- events --------------------------------------------------------------------------------

    def handle(self, event: ChannelEvent) -> int:
        """Do what the peer asks; the work it was."""
        if isinstance(event, Publish):
            return self.publisher.publish(event)
        if isinstance(event, Settle):
            return self._settle(event)
        if isinstance(event, Method):
            act = _METHODS.get(type(event.method))
            if act is None:
                raise CommandInvalid("unimplemented method")
            self._act(act, event.method)
            return _METHOD_WORK
        assert isinstance(event, ChannelFault), event
        raise event.error

    def _act(self, act: Callable[["Channel", Any], None], method: Any) -> None:
        """Act; if what a method names is not there, once more with all that other nodes know."""
        try:
            act(self, method)
        except NotKnown:
            if not self._act_later(method.index, lambda: act(self, method)):
                raise

    def with_all_known(self, index: int, act: Callable[[], None], *, is_known: bool) -> None:
        """Act, with all that other nodes know if what is named is not known here."""
        if is_known or not self._act_later(index, act):
            act()

    def _act_later(self, index: int, act: Callable[[], None]) -> bool:
        """Act when this node knows what others do; false if there are no others."""
        caught_up = self.session.broker.coordinator.catch_up()
        if caught_up is None:
            return False

        def reply(_: None) -> None:
            act()

        self.answer(caught_up, index, reply)
        return True

    def park_event(self, event: ChannelEvent) -> None:
        """Keep an event behind the method that waits."""
        size = _size(event)
        self.parked.append((event, size))
        self.session.parked_bytes += size

    def put_first(self, event: ChannelEvent) -> None:
        """Have an event come before all that is parked."""
        size = _size(event)
        self.parked.appendleft((event, size))
        self.session.parked_bytes += size

    def answer(
        self,
        answer: Answer | Pending[Answer],
        index: int,
        reply: Callable[[Answer], None],
        undo: Callable[[Answer], None] | None = None,
    ) -> None:
        """Reply now, or when the answer is there; meanwhile the channel waits, and not for ever.

        ``undo`` takes back what comes when nobody waits any more.
        """
        if not isinstance(answer, Pending):
            reply(answer)
            return
        self.waiting = True
        broker = self.session.broker

        def finish(act: Callable[[], None]) -> None:
            deadline.cancel()
            answer.then, answer.otherwise = undo, None
            if self.session.channels.get(self.number) is self:
                self.waiting = False
                self.session.guard(self, index, act)
                self.session.replay(self)

        def refuse(error: Exception) -> None:
            raise error

        def expire(now_s: float) -> None:
            refuse_late = InternalError("the answer took too long; try again")
            finish(lambda: refuse(refuse_late))

        def resolve(value: Answer) -> None:
            late = self.session.channels.get(self.number) is not self
            finish(lambda: reply(value))
            if late and undo is not None:
                undo(value)

        answer.then = resolve
        answer.otherwise = lambda error: finish(lambda: refuse(error))
        now_s = broker.world.clock.monotonic_s()
        deadline = broker.deadlines.at(now_s + broker.limits.pending_s_max, expire)

    def send(self, method: Frame) -> None:
        """Send a method to the peer."""
        self.session.connection.send_method(self.number, method)

    @property
    def asker(self) -> Asker:
        """The peer, as it asks for queues, exchanges and bindings."""
        session = self.session
        queues_max = session.broker.limits.queues_per_vhost_max
        return Asker(self.vhost, session.access, session, queues_max)

    def close(self) -> int:
        """End: consumers go, what is unsettled goes back to its queues; octets that were parked."""
        if self._leaving is not None:
            self._leave(self._leaving)
        while self.consumers:
            self._leave(self.consumers.popitem()[1])
        if self.reply_consumer is not None:
            self._close_replies(self.reply_consumer)
        if self.transaction is not None:
            self.transaction.rollback()
            self.transaction = None
        taken, _ = self.unsettled.take_up_to(0)
        Returning(taken, self.turn)
        self.publisher.close()
        self.vhost.counts.publisher_gone(self.publisher)
        self.session.broker.churn.channels_closed += 1
        self.last_served = None
        del self.publisher  # Nothing leads in a circle: the channel is freed at once.
        size = sum(size for _, size in self.parked)
        self.parked.clear()
        return size

    def _close(self, method: commands.Channel.Close) -> None:
        self.session.close_channel(self)
        self.session.connection.channel_close_ok(self.number)

    def _request_access(self, method: AccessRequest) -> None:
        self.send(AccessRequestOk())

    def _flow(self, method: commands.Channel.Flow) -> None:
        if not method.active:
            raise Unimplemented("active=false")
        self.send(commands.Channel.FlowOk(active=True))

    # -- confirms and transactions -------------------------------------------------------------

    def _select_confirms(self, method: commands.Confirm.Select) -> None:
        if self.transaction is not None:
            raise PreconditionFailed("cannot switch from tx to confirm mode")
        self.publisher.window.confirming = True
        if not method.nowait:
            self.send(commands.Confirm.SelectOk())

    def confirm(self, sequence: int, multiple: bool) -> None:
        """Tell the peer that messages are safe."""
        self.send(commands.Basic.Ack(sequence, multiple))
        self.turn.speak(self.session)

    def refuse(self, sequence: int, multiple: bool) -> None:
        """Tell the peer that messages may be lost."""
        self.send(commands.Basic.Nack(sequence, multiple))
        self.turn.speak(self.session)

    def _select_transactions(self, method: commands.Tx.Select) -> None:
        if self.publisher.window.confirming:
            raise PreconditionFailed("cannot switch from confirm to tx mode")
        if self.transaction is None:
            bytes_max = self.session.broker.limits.transaction_bytes_max
            self.transaction = Transaction(self, bytes_max)
        self.send(commands.Tx.SelectOk())

    def _commit(self, method: commands.Tx.Commit) -> None:
        def reply(_: None) -> None:
            self.send(commands.Tx.CommitOk())

        self.answer(self._open_transaction().commit(), method.index, reply)

    def _rollback(self, method: commands.Tx.Rollback) -> None:
        self._open_transaction().rollback()
        self.send(commands.Tx.RollbackOk())

    def _open_transaction(self) -> Transaction:
        if self.transaction is None:
            raise PreconditionFailed("channel is not transactional")
        return self.transaction

    # -- credit --------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether the peer has too much to take already."""
        session = self.session
        return session.connection.outbox_bytes + session.unsent_bytes > self._outbox_bytes_max

    def resume_consumers(self) -> None:
        """Credit may have come back: who has some takes its turn again."""
        if self.prefetch and self.unsettled_count >= self.prefetch:
            return  # Nobody has: the next settle asks again.
        parked, self.parked_consumers = self.parked_consumers, {}
        last = self.last_served
        if last in parked:  # The others come first: there may not be enough for all.
            del parked[last]
            parked[last] = None
        for consumer in parked:
            if consumer.credit > 0:
                consumer.queue.resume(consumer)
            else:
                consumer.park()

    def _qos(self, method: commands.Basic.Qos) -> None:
        if method.prefetch_size:
            raise Unimplemented(f"prefetch_size!=0 ({method.prefetch_size})")
        if method.global_:
            self.prefetch = method.prefetch_count
            self.resume_consumers()
        else:
            self.prefetch_for_new = method.prefetch_count
            if self.prefetch:
                self.prefetch = 0  # The one replaces the other (RabbitMQ).
                self.resume_consumers()
        self.send(commands.Basic.QosOk())

    # -- settle --------------------------------------------------------------------------------

    def _settle(self, event: Settle) -> int:
        if event.multiple:
            taken, unknown = self.unsettled.take_up_to(event.last)
        else:
            taken, unknown = self.unsettled.take(event.first, event.last)
        if event.requeue:
            outcome = Outcome.REQUEUE
        elif event.index == commands.Basic.Ack.index:
            outcome = Outcome.ACK
        else:
            outcome = Outcome.REJECT
        if self.transaction is not None:
            self.transaction.settle(taken, outcome)
        else:
            self.settle_runs(taken, outcome)
        if unknown is not None:
            raise PreconditionFailed(f"unknown delivery tag {unknown}")
        return len(taken)

    def settle_runs(self, taken: list[Delivered], outcome: Outcome) -> None:
        """Tell the queues what became of deliveries; their consumers have credit again."""
        for run in taken:
            run.queue.settle(run.indexes, outcome)
            consumer = run.consumer
            if isinstance(consumer, ChannelConsumer):
                consumer.unsettled -= len(run.indexes)
                self.unsettled_count -= len(run.indexes)
                if not self.prefetch and consumer in self.parked_consumers:
                    if consumer.credit > 0:
                        del self.parked_consumers[consumer]
                        consumer.queue.resume(consumer)
                    else:
                        consumer.park()  # Perhaps for another reason than before.
        if self.prefetch and self.parked_consumers:
            self.resume_consumers()

    def _recover(self, method: commands.Basic.Recover | commands.Basic.RecoverAsync) -> None:
        if not method.requeue:
            raise Unimplemented("requeue=false")
        taken, _ = self.unsettled.take_up_to(0)
        self.settle_runs(taken, Outcome.REQUEUE)
        if isinstance(method, commands.Basic.Recover):
            self.send(commands.Basic.RecoverOk())

    # -- consume -------------------------------------------------------------------------------

    def _consume(self, method: commands.Basic.Consume) -> None:
        tag = self._consumer_tag(method)
        if method.queue == REPLY_TO:
            self._consume_replies(tag, method)
            return
        queue = self.queue_to_read(method.queue)
        arguments: Arguments = method.arguments or {}
        check_consume(queue.definition, arguments)
        consumer = ChannelConsumer(self, queue, tag, method.no_ack, method.exclusive, arguments)

        def reply(_: None) -> None:
            self.consumers[tag] = consumer
            if not method.nowait:
                self.send(commands.Basic.ConsumeOk(tag))

        self.answer(queue.consume(consumer), method.index, reply, lambda _: self._leave(consumer))

    def _consumer_tag(self, method: commands.Basic.Consume) -> str:
        """The tag of a new consumer. Raises `NotAllowed` if it is taken, or there are too many."""
        limit = self.session.broker.limits.consumers_per_channel_max
        tag = method.consumer_tag or self.generate_name("amq.ctag-")
        replies = self.reply_consumer
        if tag in self.consumers or (replies is not None and replies.tag == tag):
            raise NotAllowed(f"attempt to reuse consumer tag '{tag}'")
        if len(self.consumers) >= limit:
            raise NotAllowed(f"reached maximum ({limit}) of consumers per channel")
        return tag

    def _consume_replies(self, tag: str, method: commands.Basic.Consume) -> None:
        if not method.no_ack:
            raise PreconditionFailed("reply consumer cannot acknowledge")
        if self.reply_consumer is not None:
            raise PreconditionFailed("reply consumer already set")
        backlog_bytes_max = self.session.broker.limits.direct_replies_bytes_max
        self.reply_consumer = ReplyConsumer(self, tag, self.generate_name(""), backlog_bytes_max)
        if not method.nowait:
            self.send(commands.Basic.ConsumeOk(tag))

    def _cancel(self, method: commands.Basic.Cancel) -> None:
        tag = method.consumer_tag or ""
        consumer = self._leaving = self.consumers.pop(tag, None)
        gone = None
        if consumer is not None:
            gone = consumer.queue.cancel(consumer)
        elif self.reply_consumer is not None and self.reply_consumer.tag == tag:
            self._close_replies(self.reply_consumer)

        def reply(_: None) -> None:
            self._leaving = None
            if consumer is not None:
                self.parked_consumers.pop(consumer, None)
            if not method.nowait:
                self.send(commands.Basic.CancelOk(tag))

        self.answer(gone, method.index, reply)

    def _close_replies(self, consumer: ReplyConsumer) -> None:
        consumer.close()
        self.reply_consumer = None

    def _leave(self, consumer: ChannelConsumer) -> None:
        self.parked_consumers.pop(consumer, None)
        consumer.queue.abandon(consumer)

    def consumer_cancelled(self, consumer: ChannelConsumer) -> None:
        """The queue is gone; a peer that can bear it is told so (consumer_cancel_notify)."""
        if self.consumers.pop(consumer.tag, None) is None:
            return
        self.parked_consumers.pop(consumer, None)
        if self.session.connection.capabilities.get("consumer_cancel_notify") is True:
            notice = commands.Basic.Cancel(consumer.tag, nowait=True)
            if self._held_notices is not None:
                self._held_notices.append(notice)
                return
            self.send(notice)
            self.turn.speak(self.session)

    def hold_notices(self) -> None:
        """What its consumers are told waits until the peer's method is answered.

        RabbitMQ's order; py-amqp raises a notice that it finds where it waits for the answer.
        """
        self._held_notices = []

    def release_notices(self) -> None:
        """The answer is on its way."""
        notices, self._held_notices = self._held_notices, None
        for notice in notices or ():
            self.send(notice)

    def _get(self, method: commands.Basic.Get) -> None:
        queue = self.queue_to_read(method.queue)

        def undo(got: Got | None) -> None:
            if got is not None and not method.no_ack:
                queue.settle(range(got.index, got.index + 1), Outcome.REQUEUE)

        def reply(got: Got | None) -> None:
            if got is None:
                self.send(commands.Basic.GetEmpty())
                return
            tag = self.next_tag
            self.next_tag += 1
            address = got.origin.address
            head = encode_get_ok(self.number, tag, got.redelivered, address, got.ready)
            connection = self.session.connection
            connection.send(head + reframe(got.raw, self.number, connection.frame_max))
            if not method.no_ack:
                indexes = range(got.index, got.index + 1)
                self.unsettled.add(Delivered(tag, indexes, queue, None))

        self.answer(queue.get(method.no_ack), method.index, reply, undo)

    # -- names ---------------------------------------------------------------------------------

    def queue_name(self, name: str) -> str:
        """A queue's name.

        The empty one stands for the queue last declared on this channel (section 1.7.2).
        """
        if name:
            return name
        if self.last_queue is None:
            raise NotFound("no previously declared queue")
        return self.last_queue

    def queue_to_read(self, name: str) -> Queue:
        """The queue, if the user may read from it."""
        return queue_to_read(self.asker, self.queue_name(name))

    def generate_name(self, prefix: str) -> str:
        """A name that nobody else has, and nobody can guess."""
        octets = self.session.broker.world.random.randbytes(_GENERATED_NAME_BYTES)
        return prefix + base64.urlsafe_b64encode(octets).decode().rstrip("=")


def _size(event: ChannelEvent) -> int:
    """What an event that is kept takes, in octets, about."""
    return sum(map(len, event.raws)) if isinstance(event, Publish) else 256


_METHODS: dict[type[Frame], Callable[[Channel, Any], None]] = {
    commands.Channel.Close: Channel._close,
    commands.Channel.Flow: Channel._flow,
    AccessRequest: Channel._request_access,
    commands.Confirm.Select: Channel._select_confirms,
    commands.Tx.Select: Channel._select_transactions,
    commands.Tx.Commit: Channel._commit,
    commands.Tx.Rollback: Channel._rollback,
    commands.Basic.Qos: Channel._qos,
    commands.Basic.Consume: Channel._consume,
    commands.Basic.Cancel: Channel._cancel,
    commands.Basic.Get: Channel._get,
    commands.Basic.Recover: Channel._recover,
    commands.Basic.RecoverAsync: Channel._recover,
    **topology.METHODS,
}
"""What each method of a channel does."""
