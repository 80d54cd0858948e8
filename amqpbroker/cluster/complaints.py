"""What goes wrong again and again, logged once: until all goes well, or something else is wrong."""

import logging

log = logging.getLogger(__name__)

_COMPLAINTS_MAX = 1000
_COMPLAINTS_OF_ONE_MAX = 20
"""So many different things are told of one host: strangers may say what they like."""


class Complaints:
    """Complaints about who is named by a text; what follows a comma there tells more of them."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], int] = {}

    def complain(self, who: str, text: str, patience: int = 1) -> None:
        """Log what has gone wrong, once it has happened ``patience`` times."""
        if len(self._times) > _COMPLAINTS_MAX:
            self._times.clear()
        place = who.partition(",")[0]
        if (who, text) not in self._times and (
            sum(each.partition(",")[0] == place for each, _ in self._times)
            >= _COMPLAINTS_OF_ONE_MAX
        ):
            who, text, patience = place, "more is wrong, and is not told", 1
        times = self._times.get((who, text), 0) + 1
        self._times[who, text] = times
        if times == patience:
            log.warning("%s: %s", who, text)

    def forgive(self, who: str) -> None:
        """All goes well: what goes wrong from now on is news."""
        for complaint in [each for each in self._times if each[0] == who]:
            del self._times[complaint]
