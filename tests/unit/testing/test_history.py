import attrs
import pytest

from amqpbroker.testing.history import History, Verdict, What


@attrs.define
class Story:
    """A publisher, a queue and a consumer, and what they tell."""

    history: History = attrs.Factory(History)

    def publish(self, *names: str, must_stay: bool = True, priority: int = 0) -> None:
        for name in names:
            self.history.published(
                name, "p", ["q"], f"body of {name}", must_stay=must_stay, priority=priority
            )

    def confirm(self, *names: str) -> None:
        for name in names:
            self.history.confirmed(name)

    def receive(self, *names: str, redelivered: bool = False, consumer: str = "c") -> None:
        for name in names:
            self.history.received(name, "q", consumer, f"body of {name}", redelivered=redelivered)

    def ack(self, *names: str) -> None:
        for name in names:
            self.history.settled(name, "q")

    def faults(self) -> list[tuple[What, object]]:
        return [(fault.what, fault.message) for fault in self.history.check()]


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_sound_history_has_no_fault(story: Story) -> None:
    story.publish("a", "b", "c", "d", "e")
    story.confirm("a", "b", "c")
    story.receive("a", "b", "c")
    story.ack("a")
    story.history.ended(in_order=False)
    story.receive("b", "c", redelivered=True)
    story.publish("f")
    story.receive("f")
    story.confirm("f")
    story.ack("b", "c", "f")
    assert story.faults() == []
    assert story.history.count(Verdict.CONFIRMED) == 4
    assert story.history.count(Verdict.UNKNOWN) == 2
    assert story.history.deliveries == 6


def test_a_confirmed_message_that_never_comes_is_lost(story: Story) -> None:
    story.publish("a", "b")
    story.confirm("a", "b")
    story.receive("a")
    story.ack("a")
    assert story.faults() == [(What.LOST, "b")]


def test_a_confirmed_message_that_was_received_but_not_settled_has_to_come_again(
    story: Story,
) -> None:
    story.publish("a")
    story.confirm("a")
    story.receive("a")
    story.history.ended(in_order=False)
    assert story.faults() == [(What.LOST, "a")]


def test_what_was_not_confirmed_or_is_transient_may_be_lost(story: Story) -> None:
    story.publish("a", "b")
    story.publish("c", must_stay=False)
    story.history.nacked("b")
    story.confirm("c")
    assert story.faults() == []


def test_a_message_has_to_reach_each_of_its_queues() -> None:
    history = History()
    history.published("a", "p", ["q", "r"])
    history.confirmed("a")
    history.received("a", "q", "c", redelivered=False)
    history.settled("a", "q")
    assert [str(fault) for fault in history.check()] == [
        "'a' in r: confirmed and lost (delivered 0 times)"
    ]


def test_a_second_delivery_without_the_flag_is_found(story: Story) -> None:
    story.publish("a", "b")
    story.receive("a", "b")
    story.history.ended(in_order=False)
    story.receive("b")
    assert story.faults() == [(What.UNFLAGGED, "b")]


def test_of_two_consumers_the_one_that_has_it_again_may_be_the_first_to_tell() -> None:
    history = History()
    history.published("a", "p", ["q"])
    history.received("a", "q", "second", redelivered=True)
    history.received("a", "q", "first", redelivered=False)
    history.settled("a", "q")
    assert history.check() == []
    history.received("a", "q", "third", redelivered=False)
    assert [fault.what for fault in history.check()] == [What.UNFLAGGED]


def test_an_inversion_of_first_deliveries_is_found(story: Story) -> None:
    story.publish("a", "b", "c")
    story.receive("a", "c", "b")
    assert story.faults() == [(What.INVERTED, "b")]


def test_an_inversion_over_two_lives_is_found(story: Story) -> None:
    story.publish("a", "b")
    story.receive("b")
    story.history.ended(in_order=False)
    story.receive("a")
    assert story.faults() == [(What.INVERTED, "a")]


def test_an_inversion_of_what_comes_back_after_a_restart_is_found(story: Story) -> None:
    story.publish("a", "b", "c")
    story.receive("a", "b")
    story.history.ended(in_order=False)
    story.receive("a", "c", "b", redelivered=True)
    assert story.faults() == [(What.INVERTED, "b")]


def test_what_was_requeued_may_come_out_of_order(story: Story) -> None:
    story.publish("a", "b", "c")
    story.receive("a", "b")
    story.receive("a", redelivered=True)
    story.receive("c")
    story.receive("b", redelivered=True)
    assert story.faults() == []


def test_priorities_and_consumers_have_an_order_each(story: Story) -> None:
    story.publish("a", "b", "c")
    story.publish("urgent", priority=9)
    story.receive("urgent", "c")
    story.receive("a", "b", consumer="other")
    assert story.faults() == []


def test_a_changed_content_is_found(story: Story) -> None:
    story.publish("a")
    story.history.received("a", "q", "c", "body of somebody else", redelivered=False)
    assert story.faults() == [(What.CHANGED, "a")]


def test_a_message_that_nobody_has_sent_there_is_found(story: Story) -> None:
    story.publish("a")
    story.history.received("a", "r", "c", "body of a", redelivered=False)
    story.receive("b")
    assert story.faults() == [(What.UNSENT, "a"), (What.UNSENT, "b")]


def test_an_acked_message_stays_away_once_the_broker_has_stopped_in_order(story: Story) -> None:
    story.publish("a", "b")
    story.receive("a")
    story.ack("a")
    story.history.ended(in_order=True)
    story.receive("a", redelivered=True)
    story.receive("b")
    story.ack("b")
    story.history.ended(in_order=False)
    story.receive("b", redelivered=True)
    assert story.faults() == [(What.RETURNED, "a")]


def test_a_confirm_without_a_message_and_a_second_one_are_found(story: Story) -> None:
    story.publish("a")
    story.confirm("a", "a", "b")
    story.history.stray_confirm("p", "tag 7")
    story.receive("a")
    story.ack("a")
    assert story.faults() == [
        (What.STRAY_CONFIRM, "a"),
        (What.STRAY_CONFIRM, "b"),
        (What.STRAY_CONFIRM, "p"),
    ]
