"""URLs and the command line."""

import socket

import pytest

from bench.cli import main
from bench.client import BrokerError, Url
from bench.subjects import parse_target, ready_url


def test_all_parts_of_a_url_are_read_and_decoded():
    assert Url.parse("amqp://me:p%40ss@example.org:5673/a%2Fb") == Url(
        "example.org", 5673, "me", "p@ss", "a/b"
    )


@pytest.mark.parametrize("text", ["amqp://localhost", "amqp://localhost/", "amqp://localhost:5672"])
def test_what_is_missing_in_a_url_has_the_usual_defaults(text: str):
    assert Url.parse(text) == Url("localhost", 5672, "guest", "guest", "/")


@pytest.mark.parametrize(
    "text",
    ["localhost:5672", "http://localhost", "amqps://localhost", "amqp://", "amqp://h:x/",
     "amqp://h:70000", "amqp://h/a/b"],
)  # fmt: skip
def test_a_bad_url_is_refused(text: str):
    with pytest.raises(ValueError, match=r"amqp://|names no host|percent|port"):
        Url.parse(text)


def test_a_url_is_shown_without_the_password():
    assert "secret" not in str(Url.parse("amqp://me:secret@h:1/v"))


def test_a_target_may_have_a_name():
    assert parse_target("rabbit=amqp://h") == ("rabbit", Url("h"), None)
    assert parse_target("amqp://h/a=b") == (None, Url("h", vhost="a=b"), None)


def test_a_target_may_have_a_second_node() -> None:
    assert parse_target("rabbit=amqp://h,amqp://i") == ("rabbit", Url("h"), Url("i"))
    assert parse_target("amqp://h,amqp://i") == (None, Url("h"), Url("i"))


def test_the_ready_line_says_where_the_broker_is():
    line = "amqpbroker ready: amqp=amqp://127.0.0.1:4711 name=rabbit@host\n"
    assert ready_url(line) == Url("127.0.0.1", 4711)


def test_anything_but_the_ready_line_is_an_error():
    with pytest.raises(BrokerError, match="did not start"):
        ready_url("Traceback")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--scenario", "nonsense"], "no scenario 'nonsense'"),
        (["--url", "http://localhost"], "is not an amqp:// URL"),
        (["--only-urls"], "needs a --url"),
        (["--seconds", "0"], "must be positive"),
        (["--repeat", "many"], "--repeat"),
        (["--nonsense"], "--nonsense"),
        (["--pid", "7"], "NAME=PID"),
        (["--data-dir", "/nowhere"], "--data-dir /nowhere is no folder"),
    ],
)
def test_bad_usage_is_one_line_and_status_64(arguments: list[str], text: str, capsys):
    assert main(arguments) == 64
    error = capsys.readouterr().err
    assert error.startswith("bench: ")
    assert error.count("\n") == 1
    assert text in error


def test_a_broker_that_cannot_be_reached_is_one_line_and_status_1(capsys):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert main(["--only-urls", "--url", f"amqp://127.0.0.1:{port}"]) == 1
    error = capsys.readouterr().err
    assert f"cannot reach amqp://127.0.0.1:{port}/" in error
    assert error.count("\n") == 1


def test_the_list_names_every_scenario(capsys):
    assert main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"auto-ack", "confirms", "latency", "stops"} <= set(names)
