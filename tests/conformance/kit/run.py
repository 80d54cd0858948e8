"""Runs one script in a world of its own, and leaves nothing behind."""

import time

from kit.conversation import Conversation
from kit.drivers import InProcess, Setting, Socket
from kit.link import Link
from kit.script import Script

_RETRIES = 200
_RETRY_S = 0.01


def run_in_process(script: Script, setting: Setting = "here") -> None:
    """Run ``script`` against a broker of its own. Raises `kit.conversation.Parted`."""
    Conversation(InProcess(setting)).run(script)


def run_against(script: Script, driver: Socket) -> None:
    """Run ``script`` against a broker elsewhere, and take away what it has made there.

    Raises `kit.conversation.Parted`, or `kit.drivers.Skipped`.
    """
    conversation = Conversation(driver)
    try:
        conversation.run(script)
    finally:
        for link in conversation.links.values():
            link.stream.drop()
        driver.clean_up()
        delete_declared(driver, list(conversation.declared))


def delete_declared(driver: Socket, declared: list[tuple[str, str]]) -> None:
    """Delete queues and exchanges in the default virtual host.

    An exclusive queue is somebody's for as long as the broker has not seen that they went away.
    """
    named = [(kind, name) for kind, name in declared if name and not _predeclared(kind, name)]
    if not named:
        return
    link = Link("cleaner", driver.connect("127.0.0.1"), lambda line: None)
    link.shake_hands(driver.patience_s, channels=(1,))
    for kind, name in named:
        for _ in range(_RETRIES):
            link.send(1, f"{kind}.delete", (), {kind: name})
            answer = link.next(1, driver.patience_s)
            if answer is None or answer.name == f"{kind}.delete-ok":
                break
            link.send(1, "channel.close-ok", (), {})
            link.open_channel(1, driver.patience_s)
            time.sleep(_RETRY_S)
    link.stream.drop()


def _predeclared(kind: str, name: str) -> bool:
    return kind == "exchange" and name.startswith("amq.")
