"""The simulated network does what a network does."""

import pytest
import trio

from amqpbroker.testing.world import Simulation, simulate


def test_where_nobody_listens_connections_are_refused_at_once() -> None:
    async def scenario(sim: Simulation) -> None:
        there = sim.network.at("a")
        with pytest.raises(ConnectionRefusedError):
            await there.connect("b", 1)
        listener = await sim.network.listen("b", 1)
        (await there.connect("b", 1)).close()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            await there.connect("b", 1)
        assert trio.current_time() == 0

    simulate(1, scenario)


@pytest.mark.parametrize("way", [("a", "b"), ("b", "a")])
def test_what_is_unreachable_does_not_answer_whether_anybody_listens_or_not(
    way: tuple[str, str],
) -> None:
    async def scenario(sim: Simulation) -> None:
        await sim.network.listen("b", 1)
        sim.network.sever(*way)
        for port in (1, 2):
            with trio.move_on_after(100) as patience:
                await sim.network.at("a").connect("b", port)
            assert patience.cancelled_caught
        (await sim.network.at("c").connect("b", 1)).close()
        sim.network.heal()
        (await sim.network.at("a").connect("b", 1)).close()

    simulate(2, scenario)


def test_connections_that_nobody_has_accepted_end_with_the_listener() -> None:
    async def scenario(sim: Simulation) -> None:
        listener = await sim.network.listen("b", 1)
        stream = await sim.network.at("a").connect("b", 1)
        listener.close()
        listener.close()
        with trio.fail_after(1), pytest.raises(ConnectionResetError):
            await stream.receive_some(1)

    simulate(3, scenario)
