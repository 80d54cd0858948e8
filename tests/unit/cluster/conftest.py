from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any

import pytest
import trio
import trio.testing

from amqpbroker.testing.world import seeded_scheduler


def in_simulated_time(test: Callable[[], Awaitable[object]], **options: Any) -> object:
    clock = trio.testing.MockClock(autojump_threshold=0)
    with seeded_scheduler(1):
        return trio.run(test, **options | {"clock": clock})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a test simulated time when one of its fixtures, at any depth, asks for it.

    pytest-trio looks at the arguments of the test alone, and those of a contract ask for nothing.
    """
    for item in items:
        if not isinstance(item, pytest.Function) or not iscoroutinefunction(item.obj):
            continue
        if "autojump_clock" in item.fixturenames:
            item.add_marker(pytest.mark.trio(run=in_simulated_time), append=False)
