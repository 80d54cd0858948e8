"""Real sockets."""

import os
import socket
import struct

import pytest
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


async def test_a_connection_that_is_cut_at_once_leaves_no_socket_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        sock = socket.create_connection(address)
        theirs, _ = listener.accept()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    descriptor = sock.fileno()

    async def connected(*_: object) -> trio.SocketStream:
        return stream

    monkeypatch.setattr(trio, "open_tcp_stream", connected)
    with pytest.raises(OSError, match="not connected") as refused:
        await real_world().network.connect(*address)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert refused.tb  # Its frames had the socket still.


async def test_a_stream_is_quiet_until_something_waits_to_be_received() -> None:
    network = real_world().network
    listener = await network.listen("127.0.0.1", 0)
    ours = await network.connect(*listener.address)
    theirs = await listener.accept()
    with trio.fail_after(5):
        assert ours.is_quiet()
        theirs.send_nowait(b"a")
        while ours.is_quiet():
            await trio.lowlevel.checkpoint()
        assert await ours.receive_some(10) == b"a"
        assert ours.is_quiet()
        theirs.close()
        while ours.is_quiet():
            await trio.lowlevel.checkpoint()
    ours.close()
    assert not ours.is_quiet()
    listener.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refusal_is_told_as_such(host: str) -> None:
    network = real_world().network
    listener = await network.listen("127.0.0.1", 0)
    _, port = listener.address
    (await network.connect(host, port)).close()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        await network.connect(host, port)
