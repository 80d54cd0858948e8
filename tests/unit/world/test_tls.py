"""Streams under TLS keep the promises of a stream."""

import os
import random
import shutil
import ssl

import attrs
import pytest
import trio

from amqpbroker.testing.certificates import Certificate, make_certificate
from amqpbroker.testing.world import Simulation, simulate
from amqpbroker.world import Network, Stream, real_world
from amqpbroker.world.tls import TlsNetwork, node_contexts

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    if shutil.which("openssl") is None and "CI" not in os.environ:
        pytest.skip("there is no openssl")
    return make_certificate(tmp_path_factory.mktemp("tls") / "here")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """One that nobody here believes."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "elsewhere")


def secured(network: Network, certificate: Certificate) -> TlsNetwork:
    return TlsNetwork(network, *node_contexts(*attrs.astuple(certificate)))


async def send_all(stream: Stream, data: bytes) -> None:
    rest = memoryview(data)
    while rest := rest[stream.send_nowait(rest) :]:
        await stream.wait_writable()


async def echo(stream: Stream) -> None:
    """Send everything back, in other pieces."""
    while data := await stream.receive_some(10_000):
        await send_all(stream, data)
    stream.close()


async def there_and_back(network: TlsNetwork, data: bytes, pieces: list[int]) -> bytes:
    """What comes back of ``data``, which is sent in ``pieces``."""
    listener = await network.listen(HOST, 0)
    got = bytearray()

    async def send(stream: Stream) -> None:
        start = 0
        for size in pieces:
            await send_all(stream, data[start : start + size])
            start += size

    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            nursery.start_soon(echo, await listener.accept())

        nursery.start_soon(accept)
        stream = await network.connect(HOST, listener.address[1])
        assert stream.send_nowait(b"") == 0
        nursery.start_soon(send, stream)
        while len(got) < len(data):
            got += await stream.receive_some(20_000)
        stream.close()
        stream.close()
    listener.close()
    return bytes(got)


PIECES = [1, 0, 100, 16_384, 16_385, 200_000, 3, 50_000, 1]


def some_octets() -> bytes:
    return random.Random(1).randbytes(sum(PIECES))


def test_octets_come_through_however_little_is_taken_at_a_time(certificate: Certificate) -> None:
    data = some_octets()

    async def scenario(sim: Simulation) -> bytes:
        return await there_and_back(secured(sim.network, certificate), data, PIECES)

    for seed in range(3):
        assert simulate(seed, scenario) == data


async def test_octets_come_through_real_sockets(certificate: Certificate) -> None:
    data = some_octets() * 10
    network = secured(real_world().network, certificate)
    with trio.fail_after(10):
        assert await there_and_back(network, data, [10 * size for size in PIECES]) == data


@pytest.mark.parametrize("is_cut", [False, True])
def test_the_end_of_a_stream_is_said_and_a_lost_one_is_an_error(
    certificate: Certificate, is_cut: bool
) -> None:
    async def scenario(sim: Simulation) -> None:
        network = secured(sim.network, certificate)
        listener = await network.listen(HOST, 999)
        async with trio.open_nursery() as nursery:
            streams: list[Stream] = []

            async def accept() -> None:
                stream = await listener.accept()
                streams.append(stream)
                await send_all(stream, await stream.receive_some(10))

            nursery.start_soon(accept)
            client = await network.connect(HOST, 999)
            await send_all(client, b"hello")
            assert await client.receive_some(10) == b"hello"
        if is_cut:
            sim.network.cut(HOST, HOST)
            with pytest.raises(OSError, match="cut"):
                await client.receive_some(10)
            with pytest.raises(OSError, match="cut"):
                client.send_nowait(b"more")
            client.close()
        else:
            assert client.is_quiet()
            streams[0].close()
            await trio.sleep(0.1)
            assert not client.is_quiet()
            assert await client.receive_some(10) == b""

    simulate(1, scenario)


def test_nothing_is_sent_before_both_have_agreed(certificate: Certificate) -> None:
    async def scenario(sim: Simulation) -> None:
        network = secured(sim.network, certificate)
        listener = await network.listen(HOST, 999)
        await sim.network.connect(HOST, 999)
        stream = await listener.accept()
        assert stream.send_nowait(b"early") == 0
        stream.close()

    simulate(1, scenario)


async def fault_between(dialling: TlsNetwork, accepting: TlsNetwork) -> list[str]:
    """What the two sides complain of: who was dialled, who has dialled."""
    listener = await accepting.listen(HOST, 0)
    faults = ["", ""]

    async def serve() -> None:
        stream = await listener.accept()
        try:
            await stream.receive_some(10)
        except OSError as error:
            faults[0] = str(error)
        stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            stream = await dialling.connect(HOST, listener.address[1])
            stream.send_nowait(b"hello")
            await stream.receive_some(10)
        except OSError as error:
            faults[1] = str(error)
    return faults


def test_who_is_not_believed_is_told_so(certificate: Certificate, other: Certificate) -> None:
    async def scenario(sim: Simulation) -> None:
        here, there = secured(sim.network, certificate), secured(sim.network, other)
        accepting, dialling = await fault_between(here, there)
        assert "CERTIFICATE_VERIFY_FAILED" in dialling
        assert "TLSV1_ALERT_UNKNOWN_CA" in accepting

        client = ssl.create_default_context(cafile=certificate.ca)
        nobody = TlsNetwork(sim.network, client, client)
        accepting, dialling = await fault_between(nobody, here)
        assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in accepting
        assert "CERTIFICATE_REQUIRED" in dialling

        plain = await sim.network.listen(HOST, 999)
        async with trio.open_nursery() as nursery:

            async def babble() -> None:
                stream = await plain.accept()
                stream.send_nowait(b"amqplink, and more of the kind")
                await stream.receive_some(10)

            nursery.start_soon(babble)
            with pytest.raises(OSError, match="WRONG_VERSION_NUMBER"):
                await here.connect(HOST, 999)

    simulate(1, scenario)


def test_the_name_of_the_host_is_checked(certificate: Certificate) -> None:
    async def scenario(sim: Simulation) -> None:
        network = secured(sim.network, certificate)
        listener = await network.listen("elsewhere", 999)
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                with pytest.raises(OSError, match="ALERT"):
                    await (await listener.accept()).receive_some(10)

            nursery.start_soon(serve)
            with pytest.raises(OSError, match="Hostname mismatch"):
                await network.connect("elsewhere", 999)

    simulate(1, scenario)
