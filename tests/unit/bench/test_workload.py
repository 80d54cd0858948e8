"""The frames that the generator sends, held against pamqp."""

from dataclasses import replace

import pytest
from pamqp import body, commands, frame, header

from bench.scenarios import WITH_SINK, workload_named
from bench.wire import octets_of, read_frame, read_table
from bench.workload import Block, Workload, delivery_block, delivery_layout, publish_block

SMALL = [w for w in WITH_SINK if w.bindings < 10000]


def frames_of(octets: bytes) -> list[tuple[int, object]]:
    """(channel, frame) of everything in ``octets``, as pamqp reads it."""
    frames = []
    while octets:
        count, channel, decoded = frame.unmarshal(octets)
        frames.append((channel, decoded))
        octets = octets[count:]
    return frames


def message(block: Block, number: int) -> bytes:
    index = number - block.first
    return bytes(block.octets[block.offset(index) : block.offset(index + 1)])


@pytest.mark.parametrize("workload", SMALL, ids=lambda w: w.name)
def test_a_publish_is_method_header_and_body_with_the_number_of_the_message(workload: Workload):
    block = publish_block(workload)
    for number in (1, 2, block.messages):
        (channel, method), (_, properties), *bodies = frames_of(message(block, number))
        assert channel == 1
        assert isinstance(method, commands.Basic.Publish)
        assert method.exchange == workload.exchange
        assert isinstance(properties, header.ContentHeader)
        text = b"".join(b.value for _, b in bodies if isinstance(b, body.ContentBody))
        assert properties.body_size == len(text)
        assert properties.properties.delivery_mode == (2 if workload.durable else None)
        assert len(text) == workload.body_bytes[(number - 1) % len(workload.body_bytes)]
        assert text[:8] == number.to_bytes(8, "big")


@pytest.mark.parametrize("workload", SMALL, ids=lambda w: w.name)
def test_a_foreseen_delivery_carries_what_was_published(workload: Workload):
    published, delivered = publish_block(workload), delivery_block(workload)
    _, (_, sent_header), *sent = frames_of(message(published, 3))
    copy = frames_of(message(delivered, 1 + 2 * workload.copies))
    (channel, method), (_, properties), *bodies = copy
    assert channel == workload.consumer_channel
    assert isinstance(method, commands.Basic.Deliver)
    assert method.delivery_tag == 1 + 2 * workload.copies
    assert not method.redelivered
    assert properties.properties == sent_header.properties
    assert b"".join(b.value for _, b in bodies) == b"".join(b.value for _, b in sent)
    limit = workload.consumer_frame_max - 8
    assert all(len(b.value) <= limit for _, b in bodies)


def test_the_layout_of_a_delivery_points_at_its_consumer_tag_and_number():
    workload = workload_named("other-channel")
    octets, layout = message(delivery_block(workload), 5), delivery_layout(workload)
    assert octets[layout.consumer_at : layout.tag_at] == b"bench.0000"
    assert octets[layout.tag_at : layout.tag_at + 8] == octets_of(5, 1)
    assert octets[layout.number_at : layout.number_at + 8] == octets_of(5, 1)


def test_every_message_of_two_blocks_has_a_message_id_of_its_own():
    block = publish_block(workload_named("message-ids"))
    ids = set()
    for _ in range(2):
        for number in (block.first, block.first + 255, block.first + block.messages - 1):
            ids.add(frames_of(message(block, number))[1][1].properties.message_id)
        block.advance()
    assert ids == {f"{n:016x}" for n in (1, 256, block.messages, block.messages + 1,
                                        block.messages + 256, 2 * block.messages)}  # fmt: skip


def test_a_message_id_is_found_behind_a_delivery_mode():
    block = publish_block(replace(workload_named("message-ids"), durable=True))
    properties = frames_of(message(block, 7))[1][1].properties
    assert (properties.delivery_mode, properties.message_id) == (2, f"{7:016x}")


def test_deliveries_after_a_crash_are_foreseen_as_redelivered():
    block = delivery_block(replace(workload_named("backlog"), redelivered=True))
    assert frames_of(message(block, 1))[0][1].redelivered


def test_messages_go_to_a_thousand_queues_in_turn_also_across_blocks():
    block = publish_block(workload_named("1000-queues"))
    assert frames_of(message(block, 1000))[0][1].routing_key == "bench.0999"
    assert frames_of(message(block, 1001))[0][1].routing_key == "bench.0000"
    block.advance()
    assert frames_of(message(block, block.first))[0][1].routing_key == "bench.0000"


def test_no_two_messages_bear_one_topic():
    block = publish_block(workload_named("topic-10"))
    keys = {frames_of(message(block, n))[0][1].routing_key for n in range(1, 30)}
    assert len(keys) == 29
    assert frames_of(message(block, 11))[0][1].routing_key == f"w00000.{11:016x}"


def test_the_copies_of_a_message_have_its_number_and_tags_of_their_own():
    block = delivery_block(workload_named("fan-out"))
    block.advance()
    first = [bytes(block.octets[block.offset(i) : block.offset(i + 1)]) for i in range(11)]
    tags = [frames_of(octets)[0][1].delivery_tag for octets in first]
    numbers = [frames_of(octets)[2][1].value[:8] for octets in first]
    start = 10 * block.messages + 1
    assert tags == list(range(start, start + 11))
    assert numbers == [octets_of(block.first, 1)] * 10 + [octets_of(block.first + 1, 1)]


def test_numbers_over_32_bits_are_written_whole():
    block = publish_block(workload_named("auto-ack"))
    block.renumber(2**40)
    assert frames_of(message(block, 2**40 + 1))[2][1].value[:8] == (2**40 + 1).to_bytes(8, "big")


def test_a_frame_is_read_only_when_it_is_whole():
    octets = commands_frame = frame.marshal(commands.Basic.Ack(7, True), 1)
    assert read_frame(octets[:-1]) is None
    assert read_frame(octets + b"\1") == (1, 1, commands_frame[7:-1], len(octets))


def test_a_frame_with_a_wrong_end_is_refused():
    octets = frame.marshal(commands.Basic.Ack(7, True), 1)
    with pytest.raises(ValueError, match="ends with 0xcd"):
        read_frame(octets[:-1] + b"\xcd")


def test_server_properties_of_all_field_types_are_read():
    fields = {"product": "x", "n": {"flag": True, "small": -3}, "list": [1, "a"], "none": None}
    properties = frame.marshal(commands.Connection.Start(server_properties=fields), 0)
    size = int.from_bytes(properties[13:17], "big")
    assert read_table(properties[17 : 17 + size]) == fields
