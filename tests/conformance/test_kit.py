"""The kit itself: a script that is wrong fails, and the report shows where."""

import pytest
from kit.conversation import Conversation, Parted
from kit.differences import Difference, Differences, Wording
from kit.drivers import InProcess
from kit.run import run_in_process
from kit.script import ScriptError, parse
from kit.values import Capture, Having, Like, Typed, matches
from kit.wire import Reader, encode_header, encode_method

from amqpbroker.cluster.remote_queue import RemoteQueue
from amqpbroker.queues.classic import ClassicQueue


def run(*lines: str) -> None:
    (script,) = parse("\n".join(("== a sentence", *lines)), "file")
    run_in_process(script)


def parted(*lines: str) -> str:
    with pytest.raises(Parted) as caught:
        run(*lines)
    return str(caught.value)


def test_a_report_shows_the_conversation_and_where_it_parted() -> None:
    report = parted(
        '1 > queue.declare(queue="q")',
        '1 < queue.declare-ok(queue="q")',
        '1 > basic.get(queue="q")',
        '1 < basic.get-ok(body="m")',
    )
    assert report.splitlines() == [
        "file.amqp:5 a sentence",
        '    1 > queue.declare(queue="q")',
        "    a1 < queue.declare-ok(queue='q', message_count=0, consumer_count=0)",
        '    1 > basic.get(queue="q")',
        "    a1 < basic.get-empty(cluster_id='')",
        '  parted at line 5: 1 < basic.get-ok(body="m")',
        "  this came: basic.get-empty(cluster_id='')",
        "  expected: basic.get-ok",
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('1 < queue.declare-ok(queue="r")', "queue: expected 'r', came 'q'"),
        ("1 < queue.declare-ok(message_count=like('.'))", "message_count: expected like('.')"),
        ("1 < nothing", "this came: queue.declare-ok"),
        ("1 <~ queue.bind-ok", "not among what came: queue.declare-ok"),
        ("2 < queue.declare-ok", "nothing came"),
        ("1 < acked(1)", "not yet confirmed: [1]"),
        ("0 < heartbeat", "no heartbeat came"),
        ("a: ended", "the broker has not ended the connection"),
        ("1 > tx.select", "nobody expected: queue.declare-ok"),
    ],
)
def test_what_is_expected_and_does_not_come_is_told(line: str, why: str) -> None:
    assert why in parted('1 > queue.declare(queue="q")', line)


def test_what_nobody_expects_is_told_at_the_end() -> None:
    assert "parted at the end of the script" in parted("1 > tx.select")


def test_a_name_without_a_value_takes_what_comes_and_has_it_from_then_on() -> None:
    run(
        "1 > queue.declare(exclusive=True)",
        "1 < queue.declare-ok(queue=name)",
        "1 > queue.declare(queue=name, passive=True)",
        "1 < queue.declare-ok(queue=f'{name}')",
    )


@pytest.mark.parametrize(
    "text",
    ["== a\n", "== a\n1 ? b", "== a\n1 > b\n== a\n1 > b", "  more"],
)
def test_a_script_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ScriptError):
        parse(text, "file")


def test_rows_are_those_of_the_file_and_those_of_the_script() -> None:
    text = "[A; B]\n== one\n[C]\n1 > tx.select\n== two\n1 > tx.select(\n   )"
    one, two = parse(text, "file")
    assert (one.rows, two.rows) == (("A", "B", "C"), ("A", "B"))
    assert two.steps[0].text == "1 > tx.select( )"


def test_a_difference_stands_for_the_lines_that_it_names() -> None:
    (script,) = parse("== one\n1 > tx.select\n1 < tx.select-ok\n1 < nothing", "file")
    ours = ("1 < tx.select-ok", "1 < nothing")
    difference = Difference(script.id, ours, ("0 < heartbeat",), "why")
    differences = Differences({script.id: [difference]}, [])
    theirs = differences.as_theirs(script)
    assert [step.text for step in theirs.steps] == ["1 > tx.select", "0 < heartbeat"]
    with pytest.raises(ValueError, match="0 times, not once"):
        differences.as_theirs(theirs)


def test_a_wording_concerns_what_is_expected_in_every_script() -> None:
    (script,) = parse("== one\n1 > tx.select\n1 < tx.select-ok", "file")
    theirs = Differences({}, [Wording("tx.s([a-z]*)", r"tx.\1", "why")]).as_theirs(script)
    assert [step.text for step in theirs.steps] == ["1 > tx.select", "1 < tx.elect-ok"]


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        (1, 1, True),
        (1, True, False),
        (1, Typed("s", 1), False),
        (Typed("s", 1), Typed("s", 1), True),
        (Like("a.*"), "abc", True),
        (Like("a"), "abc", False),
        ({"a": [1, Like("x")]}, {"a": [1, "x"]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1], [1, 2], False),
        (Having({"a": Having({})}), {"a": {"b": 1}, "c": 2}, True),
        (Having({"a": 1}), {"c": 2}, False),
    ],
)
def test_values_are_compared_with_their_types(expected: object, actual: object, same: bool) -> None:
    assert matches(expected, actual, {}) is same


def test_a_capture_remembers() -> None:
    variables: dict[str, object] = {}
    assert matches([Capture("x")], [5], variables)
    assert variables == {"x": 5}


def test_tables_keep_their_wire_types() -> None:
    table = {
        "plain": ["text", 1, 1 << 40, True, 0.5, None, b"x", {"in": [1]}],
        "exact": [Typed(kind, 3) for kind in "bBsuilT"],
        "decimal": Typed("D", (2, 314)),
        "float": Typed("f", 0.5),
    }
    octets = encode_method(0, "connection.start-ok", {"client_properties": table})
    (item,) = Reader().feed(octets)
    assert item.fields["client_properties"] == table


def test_content_is_whole_when_its_body_is() -> None:
    reader = Reader()
    octets = encode_method(1, "basic.return", {"reply_code": 312})
    octets += encode_header(1, {"priority": 3}, 0)
    assert list(reader.feed(octets[:-1])) == []
    (item,) = reader.feed(octets[-1:])
    assert (item.fields["priority"], item.fields["body"]) == (3, "")


def test_elsewhere_means_that_messages_go_through_another_node() -> None:
    driver = InProcess("elsewhere")
    lines = (
        "== a sentence",
        '1 > queue.declare(queue="q")',
        '1 < queue.declare-ok(queue="q")',
        '1 > basic.publish(routing_key="q", body="1")',
    )
    (script,) = parse("\n".join(lines), "file")
    Conversation(driver).run(script)
    holder, asker = (broker.vhosts["/"].queues["q"] for broker in driver.brokers)
    assert isinstance(asker, RemoteQueue)
    assert isinstance(holder, ClassicQueue)
    assert holder.stat().ready == 1
