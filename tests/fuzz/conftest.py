"""What all fuzz tests watch: the broker's log."""

import logging
from typing import Any, Self

import pytest


class LogWatch(logging.Handler):
    """Notes errors as long as it is entered.

    Everything else is formatted, since that may fail too, and dropped: pytest, which keeps what is
    logged until the end of a test, does not hear of it.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.faults: list[str] = []
        self._logger = logging.getLogger("amqpbroker")
        self._before = self._logger.level, self._logger.propagate

    def __enter__(self) -> Self:
        self._before = self._logger.level, self._logger.propagate
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        return self

    def __exit__(self, *_: Any) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._before[0])
        self._logger.propagate = self._before[1]

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.ERROR or record.exc_info:
            self.faults.append(text)


@pytest.fixture(scope="session")
def broker_log() -> LogWatch:
    """The errors that brokers of this process log, while a test is inside ``with broker_log``."""
    return LogWatch()
