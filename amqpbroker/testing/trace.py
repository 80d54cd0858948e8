"""What happened in a simulated world."""

import hashlib


class Trace:
    """What happened, as one hash: two runs with the same `digest` were the same run."""

    def __init__(self) -> None:
        self.events = 0
        self._hash = hashlib.sha256()

    def note(self, *event: object) -> None:
        """Add an event; it must not hold anything that differs between processes."""
        self.events += 1
        self._hash.update(repr(event).encode())

    @property
    def digest(self) -> str:
        """The hash of all events so far."""
        return self._hash.hexdigest()
