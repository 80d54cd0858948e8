"""Real sockets."""

import socket
import struct

import trio

from amqpbroker.world import real_world


async def test_a_peer_that_is_gone_before_it_is_accepted_is_passed_over() -> None:
    listener = await real_world().network.listen("127.0.0.1", 0)
    for _ in range(3):
        gone = socket.create_connection(listener.address)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    with socket.create_connection(listener.address) as here:
        with trio.fail_after(5):
            stream = await listener.accept()
        stream.close()

        assert stream.peer == here.getsockname()
    listener.close()
