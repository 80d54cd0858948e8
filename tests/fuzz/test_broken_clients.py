"""Broken streams over real sockets, beside a pika client that works on."""

import os
import random
import socket
import struct
from typing import Any

import pika
import pytest

from amqpbroker.testing.streams import Streams, chop
from amqpbroker.testing.thread import BrokerThread

SEED = int(os.environ.get("AMQPBROKER_FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))
STREAMS = 500
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing cuts the connection instead of ending it."""


class Neighbour:
    """A client that publishes the next number, confirmed, and has it delivered."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.queue = self.channel.queue_declare("", exclusive=True).method.queue
        self.deliveries = self.channel.consume(self.queue, inactivity_timeout=10)
        self.number = 0

    def go_on(self) -> None:
        self.number += 1
        self.channel.basic_publish("", self.queue, b"%d" % self.number, mandatory=True)
        method, _, body = next(self.deliveries)
        assert body == b"%d" % self.number
        self.channel.basic_ack(method.delivery_tag)


def misbehave(rng: random.Random, address: tuple[str, int], data: bytes) -> None:
    """Send ``data``; then end, cut, or listen until the broker has had enough."""
    with socket.create_connection(address, timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in chop(rng, data):
                sock.sendall(piece)
            leaving = rng.choice(("end", "cut", "listen"))
            if leaving == "cut":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            elif leaving == "listen":
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
        except TimeoutError:
            raise
        except OSError:
            pass  # The broker has closed, and is free to do so.


@pytest.mark.slow
def test_broken_clients_harm_neither_the_broker_nor_a_neighbour(
    amqp_broker: BrokerThread, broker_log: Any
) -> None:
    streams = Streams(SEED)
    neighbour = Neighbour(amqp_broker.url)

    with broker_log:
        for number in range(STREAMS):
            rng = random.Random(f"sockets {SEED} {number}")
            data = streams.mutated(rng)
            try:
                misbehave(rng, (amqp_broker.host, amqp_broker.port), data)
                neighbour.go_on()
                assert not broker_log.faults
            except BaseException as error:
                error.add_note(f"AMQPBROKER_FUZZ_SEED={SEED}, stream {number}: {data.hex()}")
                raise
        neighbour.connection.close()

    assert neighbour.number == STREAMS
