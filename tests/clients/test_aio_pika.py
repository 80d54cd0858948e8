"""aio-pika as the programs of others use it, on asyncio."""

import asyncio
from collections.abc import Awaitable, Callable

import aio_pika
import pytest

from amqpbroker.testing.process import BrokerProcess
from amqpbroker.testing.relay import Relay
from amqpbroker.testing.thread import VHostForTest

pytestmark = pytest.mark.slow

PATIENCE_S = 20

Scenario = Callable[[], Awaitable[None]]


def run(scenario: Scenario) -> None:
    """Run on asyncio; nothing may take longer than the patience of the test."""
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_a_robust_connection_publishes_and_consumes(amqp_vhost: VHostForTest) -> None:
    received: list[bytes] = []

    async def scenario() -> None:
        connection = await aio_pika.connect_robust(amqp_vhost.url)
        async with connection:
            channel = await connection.channel(publisher_confirms=True)
            await channel.set_qos(prefetch_count=10)
            exchange = await channel.declare_exchange("x", aio_pika.ExchangeType.TOPIC)
            queue = await channel.declare_queue("q", auto_delete=True)
            await queue.bind(exchange, "a.#")
            for number in range(200):
                await exchange.publish(aio_pika.Message(b"%d" % number), "a.b")
            async with queue.iterator() as messages:
                async for message in messages:
                    async with message.process():
                        received.append(message.body)
                    if len(received) == 200:
                        break

    run(scenario)

    assert received == [b"%d" % number for number in range(200)]


def test_publishes_at_the_same_time_are_all_confirmed(amqp_vhost: VHostForTest) -> None:
    async def scenario() -> None:
        async with await aio_pika.connect_robust(amqp_vhost.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("q")
            publish = channel.default_exchange.publish
            await asyncio.gather(
                *(publish(aio_pika.Message(b"%d" % number), "q") for number in range(2000))
            )
            assert (await queue.purge()).message_count == 2000

    run(scenario)


def test_a_mandatory_message_that_nobody_wants_is_an_error(amqp_vhost: VHostForTest) -> None:
    async def scenario() -> None:
        async with await aio_pika.connect_robust(amqp_vhost.url) as connection:
            channel = await connection.channel(on_return_raises=True)
            with pytest.raises(aio_pika.exceptions.PublishError):
                await channel.default_exchange.publish(aio_pika.Message(b"body"), "nowhere")

    run(scenario)


def test_a_message_goes_back_when_its_processing_fails(amqp_vhost: VHostForTest) -> None:
    async def scenario() -> None:
        async with await aio_pika.connect_robust(amqp_vhost.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("q")
            await channel.default_exchange.publish(aio_pika.Message(b"body"), "q")
            message = await queue.get()
            with pytest.raises(ZeroDivisionError):
                async with message.process(requeue=True):
                    raise ZeroDivisionError
            again = await queue.get()
            assert again.redelivered
            await again.reject()
            assert await queue.get(fail=False) is None

    run(scenario)


def test_an_rpc_is_answered(amqp_vhost: VHostForTest) -> None:
    async def double(number: int) -> int:
        return 2 * number

    async def scenario() -> None:
        async with await aio_pika.connect_robust(amqp_vhost.url) as connection:
            channel = await connection.channel()
            rpc = await aio_pika.patterns.JsonRPC.create(channel)
            await rpc.register("double", double, auto_delete=True)
            answers = await asyncio.gather(
                *(rpc.call("double", kwargs={"number": number}) for number in range(50))
            )
            assert answers == [2 * number for number in range(50)]
            await rpc.close()

    run(scenario)


def test_a_robust_connection_comes_back_with_its_consumers(amqp_vhost: VHostForTest) -> None:
    async def scenario(relay: Relay) -> None:
        url = amqp_vhost.url.replace(f":{amqp_vhost.port}/", f":{relay.port}/")
        received: asyncio.Queue[bytes] = asyncio.Queue()

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            async with message.process():
                received.put_nowait(message.body)

        robust = await aio_pika.connect_robust(url, reconnect_interval=0.05)
        async with robust, await aio_pika.connect(amqp_vhost.url) as direct:
            channel = await robust.channel()
            queue = await channel.declare_queue("q", durable=True)
            await queue.consume(take)
            publish = (await direct.channel()).default_exchange.publish
            await publish(aio_pika.Message(b"before"), "q")
            assert await received.get() == b"before"

            relay.cut()
            await publish(aio_pika.Message(b"after"), "q")

            # The acknowledgement of the first may have been cut off: then it comes again.
            while await received.get() != b"after":
                pass

    with Relay(amqp_vhost.host, amqp_vhost.port) as relay:
        run(lambda: scenario(relay))


@pytest.mark.parametrize("end", [BrokerProcess.kill, BrokerProcess.stop])
def test_a_robust_connection_rebuilds_what_a_restart_has_taken(
    end: Callable[[BrokerProcess], None],
) -> None:
    """Exchange, queues (one of them named by the broker), bindings, consumers and prefetch."""

    async def scenario(broker: BrokerProcess) -> None:
        received: asyncio.Queue[bytes] = asyncio.Queue()
        is_back = asyncio.Event()

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            async with message.process():
                received.put_nowait(message.body)

        robust = await aio_pika.connect_robust(broker.url, reconnect_interval=0.05)
        async with robust:
            robust.reconnect_callbacks.add(lambda *_: is_back.set())
            channel = await robust.channel()
            await channel.set_qos(prefetch_count=1)
            exchange = await channel.declare_exchange("x", aio_pika.ExchangeType.FANOUT)
            for name, exclusive in (("q", False), (None, True)):
                queue = await channel.declare_queue(name, exclusive=exclusive)
                await queue.bind(exchange)
                await queue.consume(take)
            await exchange.publish(aio_pika.Message(b"before"), "")
            assert [await received.get() for _ in range(2)] == [b"before"] * 2

            await asyncio.to_thread(end, broker)
            await asyncio.to_thread(broker.start)
            await is_back.wait()

            await exchange.publish(aio_pika.Message(b"after"), "")
            assert [await received.get() for _ in range(2)] == [b"after"] * 2

    with BrokerProcess() as broker:
        run(lambda: scenario(broker))


def test_a_transaction_is_published_as_a_whole_or_not_at_all(amqp_vhost: VHostForTest) -> None:
    async def scenario() -> None:
        async with await aio_pika.connect_robust(amqp_vhost.url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            await channel.declare_queue("q")
            publish = channel.default_exchange.publish
            transaction = channel.transaction()
            await transaction.select()
            await publish(aio_pika.Message(b"taken back"), "q")
            await transaction.rollback()
            await publish(aio_pika.Message(b"kept"), "q")
            await transaction.commit()
            queue = await (await connection.channel()).get_queue("q")
            assert (await queue.get(no_ack=True)).body == b"kept"
            assert await queue.get(fail=False) is None

    run(scenario)


def test_messages_expire_and_overtake_each_other(amqp_vhost: VHostForTest) -> None:
    async def scenario() -> None:
        async with await aio_pika.connect_robust(amqp_vhost.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("q", arguments={"x-max-priority": 9})
            for priority, expiration in ((9, 0), (1, None), (5, 60)):
                message = aio_pika.Message(
                    b"%d" % priority, priority=priority, expiration=expiration
                )
                await channel.default_exchange.publish(message, "q")
            got = [await queue.get(no_ack=True) for _ in range(2)]
            assert [message.body for message in got] == [b"5", b"1"]
            assert [message.expiration for message in got] == [60, None]

    run(scenario)


def test_a_secret_can_be_renewed(amqp_vhost: VHostForTest) -> None:
    async def scenario() -> None:
        async with await aio_pika.connect_robust(amqp_vhost.url) as connection:
            await connection.update_secret("guest", reason="it was time")
            assert (await (await connection.channel()).declare_queue("q")).name == "q"

    run(scenario)
