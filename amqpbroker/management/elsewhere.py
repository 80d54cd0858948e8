"""What the other nodes of a cluster tell, each of itself.

An answer is about the cluster, whichever node was asked. Those nodes that do not answer are left
out, as RabbitMQ does it. What they tell is JSON, as they would say it of themselves, and is read
when it is needed: a list may be long.
"""

from typing import Any, Protocol, TypeVar

import attrs
import msgspec
import trio

from amqpbroker.management.call import Call
from amqpbroker.management.listing import Breather

SILENCE_S_MAX = 2.0
"""How long a node that is to tell something may be silent."""


class Named(Protocol):
    """What of a thing has to be known to put it in its place."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What things of its kind are ordered by."""


Name = TypeVar("Name", bound=Named)


@attrs.frozen
class Told:
    """Something on another node: JSON, with what it is ordered by."""

    key: tuple[Any, ...]
    octets: bytes

    def read(self) -> dict[str, Any]:
        """The thing itself."""
        data: dict[str, Any] = msgspec.json.decode(self.octets)
        return data


async def tell(call: Call, what: str, **about: str) -> dict[str, list[bytes]]:
    """What the other nodes report, by node; ``about`` narrows it down."""
    inquiries = call.facts.inquire(what, about)
    lot = trio.lowlevel.ParkingLot()
    for inquiry in inquiries:
        inquiry.on_news = lambda: _wake(lot)
    call.broker.turn.end_batch()
    while not all(inquiry.is_over for inquiry in inquiries):
        with trio.move_on_after(SILENCE_S_MAX) as patience:
            await lot.park()
        if patience.cancelled_caught:
            break
    return {each.node: each.rows for each in inquiries if each.is_over and not each.has_failed}


def _wake(lot: trio.lowlevel.ParkingLot) -> None:
    lot.unpark_all()


async def things(call: Call, what: str, kind: type[Name], **about: str) -> list[Told]:
    """Things on the other nodes, which ``kind`` reads the names of."""
    decoder = msgspec.json.Decoder(kind)
    breather = Breather(call.broker.world.clock)
    found = []
    for rows in (await tell(call, what, **about)).values():
        for row in rows:
            found.append(Told(decoder.decode(row).key, row))
            await breather.breathe()
    return found


async def objects(call: Call, what: str, **about: str) -> list[dict[str, Any]]:
    """Few things on the other nodes, read at once."""
    told = await tell(call, what, **about)
    return [msgspec.json.decode(row) for rows in told.values() for row in rows]
