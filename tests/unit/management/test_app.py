"""What all resources share: the path, the method, who asks."""

import pytest
import trio
from trio.testing import MockClock

from amqpbroker.definitions import Change, QueueDefinition, put
from amqpbroker.errors import InternalError
from amqpbroker.management.call import LOCAL_CALLER
from amqpbroker.queues.queue import Pending
from amqpbroker.testing.api import Api

UNKNOWN = {"error": "Object Not Found", "reason": "Not Found"}


async def test_a_path_that_nobody_knows_is_404(api: Api) -> None:
    answer = await api.call("GET", "/nope")

    assert (answer.status, answer.data) == (404, UNKNOWN)


async def test_a_thing_that_is_not_there_is_404(api: Api) -> None:
    answer = await api.call("GET", "/vhosts/nope")

    assert (answer.status, answer.data) == (404, UNKNOWN)


async def test_a_method_that_a_path_does_not_have_is_405_before_anybody_is_asked_who(
    api: Api,
) -> None:
    answer = await api.call("POST", "/overview", headers={})

    assert (answer.status, answer.body) == (405, b"")
    assert answer.headers["allow"] == "HEAD, GET, OPTIONS"


async def test_without_a_name_it_is_401_without_a_word(api: Api) -> None:
    answer = await api.call("GET", "/overview", headers={})

    assert (answer.status, answer.body) == (401, b"")
    assert answer.headers["www-authenticate"] == 'Basic realm="RabbitMQ Management"'


async def test_with_a_wrong_password_it_is_401(api: Api) -> None:
    answer = await api.call("GET", "/overview", password="wrong")

    assert answer.status == 401
    assert answer.data == {"error": "not_authorized", "reason": "Not_Authorized"}


async def test_guest_comes_from_this_machine_only(api: Api) -> None:
    answer = await api.call("GET", "/overview", host="192.0.2.1")

    assert answer.status == 401
    assert answer.data == {
        "error": "not_authorised",
        "reason": "User can only log in via localhost",
    }


async def test_a_user_without_a_tag_is_not_let_in(api: Api) -> None:
    await api.put("/users/ann", {"password": "p", "tags": "impersonator"})

    answer = await api.call("GET", "/overview", user="ann", password="p")

    assert answer.status == 401
    assert answer.data == {"error": "not_authorised", "reason": "Not management user"}


async def test_the_control_socket_asks_for_no_password(api: Api) -> None:
    local = Api(api.broker, LOCAL_CALLER)

    assert await local.get("/whoami", headers={}) == {
        "name": "rmq-internal",
        "tags": ["administrator"],
        "is_internal_user": True,
    }


async def test_what_is_made_is_201_and_what_changes_204(api: Api) -> None:
    assert await api.put("/vhosts/v") == 201
    assert await api.put("/vhosts/v") == 204
    await api.delete("/vhosts/v")
    assert (await api.call("DELETE", "/vhosts/v")).status == 404


async def test_a_slash_at_the_end_is_of_no_account(api: Api) -> None:
    assert await api.get("/vhosts/%2F/") == await api.get("/vhosts/%2F")


async def test_names_may_hold_slashes(api: Api) -> None:
    await api.put("/queues/%2F/a%2Fb")

    assert [queue["name"] for queue in await api.get("/queues/%2F")] == ["a/b"]


async def test_a_body_that_is_no_json_is_400(api: Api) -> None:
    answer = await api.call("PUT", "/users/ann", b"{")

    assert answer.status == 400
    assert answer.data == {"error": "bad_request", "reason": "not_json"}


async def test_columns_are_picked_also_from_within(api: Api) -> None:
    await api.put("/queues/%2F/q")

    queues = await api.get("/queues?columns=name,messages_details.rate")

    assert queues == [{"name": "q", "messages_details": {"rate": 0.0}}]


async def test_what_cannot_be_decided_on_now_is_503(api: Api) -> None:
    def away(change: Change) -> None:
        raise InternalError("the store is away")

    api.broker.coordinator.submit = away  # type: ignore[method-assign]

    answer = await api.call("PUT", "/vhosts/v")

    assert answer.status == 503
    assert answer.data == {"error": "service_unavailable", "reason": "the store is away"}


async def test_an_answer_that_takes_too_long_is_not_waited_for(
    api: Api, autojump_clock: MockClock
) -> None:
    api.broker.coordinator.submit = lambda change: Pending()  # type: ignore[method-assign]

    answer = await api.call("PUT", "/vhosts/v")

    assert (answer.status, answer.data["error"]) == (500, "timeout")


async def test_an_answer_that_comes_late_is_waited_for(api: Api, autojump_clock: MockClock) -> None:
    pending: Pending[None] = Pending()
    api.broker.coordinator.submit = lambda change: pending  # type: ignore[method-assign]

    async with trio.open_nursery() as nursery:

        async def answer_late() -> None:
            await trio.sleep(5)
            pending.resolve(None)

        nursery.start_soon(answer_late)
        assert (await api.call("DELETE", "/users/guest")).status == 204


async def test_a_bug_is_500_and_in_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    def broken(change: Change) -> None:
        raise ZeroDivisionError

    api.broker.coordinator.submit = broken  # type: ignore[method-assign]

    answer = await api.call("PUT", "/vhosts/v")

    assert (answer.status, answer.data["error"]) == (500, "Internal Server Error")
    assert "ZeroDivisionError" in caplog.text


async def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    answer = await api.call("PUT", "/users/ann", b" " * 20_000_001)

    assert answer.data["reason"] == "Exceeded HTTP request body size limit"


async def test_options_are_told_to_everybody(api: Api) -> None:
    answer = await api.call("OPTIONS", "/users/ann", headers={})

    assert (answer.status, answer.headers["allow"]) == (200, "HEAD, GET, PUT, DELETE, OPTIONS")


async def test_octets_that_are_no_text_are_shown_as_well_as_can_be(api: Api) -> None:
    api.broker.submit(put(QueueDefinition("/", "q\udcff", arguments={"a": b"\xff"})))

    [queue] = await api.get("/queues")

    assert (queue["name"], queue["arguments"]) == ("q\ufffd", {"a": "\ufffd"})
