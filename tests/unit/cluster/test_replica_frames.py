"""The frames in which leaders and mirrors speak, and what does not make sense."""

import random
from contextlib import suppress

import pytest

from amqpbroker.cluster import replica_frames as frames
from amqpbroker.errors import LinkFault
from amqpbroker.message import Batch
from amqpbroker.replication.entries import (
    Ack,
    Append,
    Commit,
    Entry,
    Fill,
    Hello,
    Joined,
    Mark,
    Settle,
    Whole,
)
from amqpbroker.replication.leadership import first_index
from amqpbroker.storage.format import Image
from amqpbroker.storage.index_set import IndexSet
from amqpbroker.testing.fakes import fake_origin, numbered

BASE = first_index(7)


def image(*indexes: int) -> Image:
    raws = numbered(len(indexes))
    origins = [fake_origin(persistent=True)] * len(indexes)
    return Image(indexes[0], indexes[-1] + 1, list(indexes), origins, raws)


ENTRIES: list[Entry] = [
    Joined(BASE + 5, 3, {1 << 62: 40, 7: 0}),
    Append(BASE, Batch([fake_origin()] * 3, numbered(3))),
    Append(BASE, Batch([fake_origin()] * 2, numbered(2)), (Mark(BASE + 1, 9, 40),)),
    Settle(4, [range(BASE, BASE + 9, 3), range(BASE + 20, BASE + 21)]),
    Fill(1, image(BASE + 1, BASE + 2)),
    Fill(2, image(BASE + 1, BASE + 7, BASE + 8)),
    Whole(3, []),
    Whole(3, [range(5), range(BASE, BASE + 5)]),
    Commit(BASE + 2, 4),
]


def told(entry: Entry) -> tuple[int, bytes]:
    kind, pieces = frames.encode_entry(12, 7, entry)
    queue_id, epoch, said = frames.decode_head(b"".join(pieces))
    assert (queue_id, epoch) == (12, 7)
    return kind, said


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_what_a_leader_tells_comes_as_it_was(entry: Entry) -> None:
    kind, said = told(entry)
    again = frames.decode_entry(kind, said, {})
    assert told(again) == (kind, said)
    assert type(again) is type(entry)
    if isinstance(entry, Append) and isinstance(again, Append):
        assert (again.first, again.marks) == (entry.first, entry.marks)
        assert again.batch.raws == entry.batch.raws
    elif isinstance(entry, Fill) and isinstance(again, Fill):
        assert again.image.indexes == entry.image.indexes
        assert again.image.raws == entry.image.raws
    else:
        assert again == entry


def test_what_a_mirror_says_comes_as_it_was() -> None:
    live = IndexSet()
    live.add(range(BASE, BASE + 3000, 7))
    *_, said = frames.decode_head(b"".join(frames.encode_hello(12, 7, Hello("a@1", live))))
    assert frames.decode_hello(said) == Hello("a@1", live)
    ack = Ack(BASE + 5, 4, 3)
    *_, said = frames.decode_head(b"".join(frames.encode_ack(12, 7, ack)))
    assert frames.decode_ack(said) == ack


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_what_is_cut_off_or_spoiled_is_a_fault_and_nothing_else(entry: Entry) -> None:
    kind, said = told(entry)
    rng = random.Random(f"spoiled {entry}")
    for _ in range(200):
        spoiled = bytearray(said[: rng.randrange(len(said) + 1)])
        for _ in range(rng.randrange(3) if spoiled else 0):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        with suppress(LinkFault):
            frames.decode_entry(kind, bytes(spoiled), {})


@pytest.mark.parametrize("decode", [frames.decode_hello, frames.decode_ack, frames.decode_head])
def test_octets_at_random_are_a_fault_and_nothing_else(decode: object) -> None:
    assert callable(decode)
    rng = random.Random("octets")
    for _ in range(500):
        with suppress(LinkFault):
            decode(rng.randbytes(rng.randrange(60)))


def test_a_kind_that_nobody_knows_is_a_fault() -> None:
    with pytest.raises(LinkFault, match="nothing that a leader says"):
        frames.decode_entry(frames.HELLO, b"", {})
