"""Which nodes are to have a queue: what a policy says, and who is there.

The rules are RabbitMQ's (rabbit_mirror_queue_mode_all, _exactly and _nodes), but for one: a mirror
whose node is down keeps its place where the policy names it, for what it has is still of use.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs


@attrs.frozen
class Copies:
    """Where a queue is: nodes, the oldest mirror first, and of these the ones in sync."""

    leader: str
    mirrors: tuple[str, ...] = ()
    in_sync: tuple[str, ...] = ()


def wanted(
    policy: Mapping[str, Any],
    copies: Copies,
    running: Sequence[str],
    shuffled: Callable[[list[str]], list[str]],
) -> Copies:
    """Where a queue is to be: another leader only if one that is in sync can take its place.

    ``running`` are the nodes that may be given a mirror; ``shuffled`` puts nodes in any order.
    Who will be in sync nobody knows yet.
    """
    match policy.get("ha-mode"):
        case "all":
            return _on_all(copies, running)
        case "exactly":
            return _on_exactly(int(policy["ha-params"]), copies, running, shuffled)
        case "nodes":
            return _on_nodes(policy["ha-params"], copies, running)
        case _:
            return Copies(copies.leader)


def _on_all(copies: Copies, running: Sequence[str]) -> Copies:
    others = dict.fromkeys((*copies.mirrors, *running))
    others.pop(copies.leader, None)
    return Copies(copies.leader, tuple(others))


def _on_exactly(
    count: int,
    copies: Copies,
    running: Sequence[str],
    shuffled: Callable[[list[str]], list[str]],
) -> Copies:
    """Those that are there stay first; others are chosen at random."""
    mirrors = [each for each in copies.mirrors if each in running]
    others = [each for each in running if each not in mirrors and each != copies.leader]
    chosen = (mirrors + shuffled(others))[: count - 1]
    return Copies(copies.leader, tuple(chosen))


def _on_nodes(names: Sequence[str], copies: Copies, running: Sequence[str]) -> Copies:
    """A leader that is not named stays while no mirror is in sync: it alone has the messages."""
    named = dict.fromkeys(names)
    if not copies.in_sync:
        named = dict.fromkeys((copies.leader, *named))
    there = [each for each in named if each in running or each in copies.mirrors]
    if copies.leader in named:
        return Copies(copies.leader, tuple(each for each in there if each != copies.leader))
    up = [each for each in there if each in running]
    if not up:
        return Copies(copies.leader)
    leader = next((each for each in up if each in copies.in_sync), copies.in_sync[0])
    return Copies(leader, tuple(each for each in there if each != leader))
