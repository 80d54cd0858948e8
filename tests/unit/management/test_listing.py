"""Lists: order, pages, filters, and that nobody waits for them."""

from typing import Any

import pytest
import trio

from amqpbroker.broker.broker import Broker
from amqpbroker.definitions import QueueDefinition, put
from amqpbroker.management import rendering
from amqpbroker.testing.api import Api
from amqpbroker.testing.fakes import FakeClock, fake_world
from amqpbroker.testing.peer import Peer


@pytest.fixture
async def some(api: Api, broker: Broker) -> None:
    """Queues a2, b1, a10 with 2, 1 and 10 messages."""
    peer = Peer(broker).open(1)
    for name, count in (("a2", 2), ("b1", 1), ("a10", 10)):
        peer.declare(name)
        peer.publish(name, *[b"m"] * count)


def names(queues: list[dict[str, Any]]) -> list[str]:
    return [queue["name"] for queue in queues]


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("", ["a10", "a2", "b1"]),
        ("?sort_reverse=true", ["b1", "a2", "a10"]),
        ("?sort=messages", ["b1", "a2", "a10"]),
        ("?sort=messages&sort_reverse=true", ["a10", "a2", "b1"]),
        ("?sort=messages_details.rate", ["a10", "a2", "b1"]),
        ("?sort=nothing.such", ["a10", "a2", "b1"]),
        ("?sort=policy", ["a10", "a2", "b1"]),
        ("?sort=arguments", ["a10", "a2", "b1"]),
        ("?sort=type", ["a10", "a2", "b1"]),
    ],
)
async def test_a_list_is_ordered_by_what_is_asked_for_and_then_by_name(
    api: Api, some: None, query: str, order: list[str]
) -> None:
    assert names(await api.get(f"/queues{query}")) == order


async def test_a_page_says_what_it_is_a_part_of(api: Api, some: None) -> None:
    page = await api.get("/queues?page=2&page_size=2")

    assert names(page.pop("items")) == ["b1"]
    assert page == {
        "total_count": 3,
        "item_count": 1,
        "filtered_count": 3,
        "page": 2,
        "page_size": 2,
        "page_count": 2,
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("name=A", ["a10", "a2"]),
        ("name=0", ["a10"]),
        ("name=^.1&use_regex=true", ["a10", "b1"]),
        ("name=(&use_regex=true", []),
        ("name=1&sort=messages", ["b1", "a10"]),
    ],
)
async def test_a_page_is_filtered_by_name(
    api: Api, some: None, query: str, found: list[str]
) -> None:
    page = await api.get(f"/queues?page=1&{query}")

    assert names(page["items"]) == found
    assert page["filtered_count"] == len(found)
    assert page["total_count"] == 3


@pytest.mark.parametrize(
    ("query", "error", "reason"),
    [
        ("page=x", "bad_request", "Pagination parameters are invalid"),
        (
            "page=0",
            "invalid_pagination_parameters",
            "Invalid pagination parameters: page number 0, page size 100",
        ),
        (
            "page=1&page_size=501",
            "invalid_pagination_parameters",
            "Invalid pagination parameters: page number 1, page size 501",
        ),
        ("page=3", "page_out_of_range", "Page out of range, page: 3 page size: 100, len: 3"),
    ],
)
async def test_a_page_that_makes_no_sense_is_400(
    api: Api, some: None, query: str, error: str, reason: str
) -> None:
    answer = await api.call("GET", f"/queues?{query}")

    assert answer.status == 400
    assert answer.data == {"error": error, "reason": reason}


async def test_a_pattern_that_takes_too_long_is_400(api: Api, broker: Broker) -> None:
    broker.submit(put(QueueDefinition("/", "a" * 60 + "!")))

    answer = await api.call("GET", "/queues?page=1&use_regex=true&name=%5E(a%7Caa)%2B%24")

    assert (answer.status, answer.data["reason"]) == (400, "the pattern takes too long")


async def test_columns_that_overlap_give_the_larger_part(api: Api, some: None) -> None:
    [first, *_] = await api.get("/queues?columns=messages_details,messages_details.rate,name")

    assert first == {"name": "a10", "messages_details": {"rate": 0.0}}


async def test_columns_hold_within_pages(api: Api, some: None) -> None:
    page = await api.get("/queues?page=1&columns=name")

    assert page["items"] == [{"name": "a10"}, {"name": "a2"}, {"name": "b1"}]


async def test_a_long_list_is_whole_and_in_order(api: Api, broker: Broker) -> None:
    for number in range(3000):
        broker.submit(put(QueueDefinition("/", f"q{number * 7919 % 3000:04}")))

    assert names(await api.get("/queues")) == [f"q{number:04}" for number in range(3000)]
    assert len(await api.get("/bindings")) == 3000


class _HastyClock(FakeClock):
    """Time that runs on whenever somebody looks."""

    def monotonic_s(self) -> float:
        self.now_s += 0.0001
        return self.now_s


async def test_others_have_the_processor_while_a_list_is_made() -> None:
    broker = Broker(fake_world(clock=_HastyClock()))
    broker.boot("guest", "guest")
    for number in range(500):
        broker.submit(put(QueueDefinition("/", f"q{number}")))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        assert len(await Api(broker).get("/queues")) == 500
        nursery.cancel_scope.cancel()
    assert turns > 20


async def test_a_queue_that_goes_while_it_is_listed_is_left_out(api: Api, broker: Broker) -> None:
    await api.put("/queues/%2F/q")
    queue = broker.vhosts["/"].queues["q"]
    await api.delete("/queues/%2F/q")

    assert rendering.queue(None, queue) is None  # type: ignore[arg-type]
