"""Decisions on what a broker consists of, which may take time.

A rule looks at what there is, and ends in an answer, in an error, or in a `Wish`: a change that is
to be decided on. In memory that is done at once. A disk takes a moment to make it last; in a
cluster it takes a round trip, and another node may have been first. Then the rule is asked again,
with what there is now: whoever declares a queue that has come to be meanwhile finds it there, and
is told whether it is the one that was wanted.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import attrs

from amqpbroker.definitions import Change
from amqpbroker.errors import Overtaken
from amqpbroker.queues.queue import Pending

Answer = TypeVar("Answer")


@attrs.frozen
class Wish(Generic[Answer]):
    """A change that a rule asks for, and what it answers when that is carried out.

    ``answer`` raises `Overtaken` if something else has happened by then.
    """

    change: Change
    answer: Callable[[], Answer]


class Decisions:
    """Has wishes decided on by ``submit``, those about the same thing one after the other."""

    def __init__(self, submit: Callable[[Change], Pending[None] | None]) -> None:
        self._submit = submit
        self._open: dict[Hashable, list[Callable[[], None]]] = {}

    def is_open(self, about: Hashable) -> bool:
        """Whether something is being decided about it."""
        return about in self._open

    def decide(
        self, about: Hashable, rule: Callable[[], Answer | Pending[Answer] | Wish[Answer]]
    ) -> Answer | Pending[Answer]:
        """What comes of ``rule``. Raises what the rule has against it."""
        waiting = self._open.get(about)
        if waiting is not None:
            late: Pending[Answer] = Pending()
            waiting.append(lambda: late.follow(lambda: self.decide(about, rule)))
            return late
        wish = rule()
        if not isinstance(wish, Wish):
            return wish
        self._open[about] = []
        decided = None
        try:
            decided = self._submit(wish.change)
        finally:
            if decided is None:
                self._close(about)
        if decided is None:
            return self._answered(about, rule, wish.answer)
        answer: Pending[Answer] = Pending()

        def carry_on(outcome: Callable[[], Answer]) -> None:
            waiting = self._open.pop(about)
            answer.follow(lambda: self._answered(about, rule, outcome))
            for go_on in waiting:
                go_on()

        def refuse(error: Exception) -> None:
            def outcome() -> Answer:
                raise error

            carry_on(outcome)

        decided.then = lambda _: carry_on(wish.answer)
        decided.otherwise = refuse
        return answer

    def _close(self, about: Hashable) -> None:
        for go_on in self._open.pop(about):
            go_on()

    def _answered(
        self,
        about: Hashable,
        rule: Callable[[], Answer | Pending[Answer] | Wish[Answer]],
        outcome: Callable[[], Answer],
    ) -> Answer | Pending[Answer]:
        """The outcome, or that of the rule if it is to be asked again."""
        try:
            return outcome()
        except Overtaken:
            return self.decide(about, rule)
