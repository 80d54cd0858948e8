"""Things that run as contexts."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self


class Running(ABC):
    """Runs while its context lasts: ``async with thing``. It is used once."""

    _running: AbstractAsyncContextManager[None]

    @abstractmethod
    def _run(self) -> AbstractAsyncContextManager[None]:
        """Its whole life: a context that is entered when it is up, and left to end it."""

    async def __aenter__(self) -> Self:
        self._running = self._run()
        await self._running.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._running.__aexit__(kind, error, trace)
