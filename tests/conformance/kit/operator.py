"""The operator of a broker in the same process: the commands of rabbitmqctl that scripts use."""

import shlex
from collections.abc import Callable

from amqpbroker.broker.access import hash_password
from amqpbroker.broker.broker import Broker
from amqpbroker.definitions import (
    PermissionDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    VHostDefinition,
    delete,
    put,
)
from amqpbroker.errors import ConnectionForced

_MEMORY_BYTES = 1 << 30
_USED_BYTES = 1 << 20


class Operator:
    """Carries out commands on ``broker``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._commands: dict[str, Callable[..., None]] = {
            "add_vhost": self._add_vhost,
            "delete_vhost": self._delete_vhost,
            "add_user": self._add_user,
            "delete_user": self._delete_user,
            "set_user_tags": self._set_user_tags,
            "set_permissions": self._set_permissions,
            "clear_permissions": self._clear_permissions,
            "set_topic_permissions": self._set_topic_permissions,
            "close_all_connections": self._close_all_connections,
            "set_vm_memory_high_watermark": self._set_memory_limit,
        }

    def do(self, command: str) -> None:
        """Do what ``command`` says. Raises `KeyError` if it is not known here."""
        name, *words = shlex.split(command)
        vhost = "/"
        if words[:1] == ["-p"]:
            vhost, words = words[1], words[2:]
        act = self._commands[name]
        if name.endswith("_permissions"):
            act(vhost, *words)
        else:
            act(*words)

    def _add_vhost(self, name: str) -> None:
        self._broker.submit(put(VHostDefinition(name)))

    def _delete_vhost(self, name: str) -> None:
        self._broker.submit(delete(VHostDefinition(name)))

    def _add_user(self, name: str, password: str) -> None:
        password_hash = hash_password(password, self._broker.world.random)
        self._broker.submit(put(UserDefinition(name, password_hash)))

    def _delete_user(self, name: str) -> None:
        self._broker.submit(delete(self._broker.users[name]))

    def _set_user_tags(self, name: str, *tags: str) -> None:
        password_hash = self._broker.users[name].password_hash
        self._broker.submit(put(UserDefinition(name, password_hash, tags)))

    def _set_permissions(self, vhost: str, user: str, *patterns: str) -> None:
        self._broker.submit(put(PermissionDefinition(vhost, user, *patterns)))

    def _clear_permissions(self, vhost: str, user: str) -> None:
        self._broker.submit(delete(PermissionDefinition(vhost, user, "", "", "")))

    def _set_topic_permissions(self, vhost: str, user: str, exchange: str, *patterns: str) -> None:
        self._broker.submit(put(TopicPermissionDefinition(vhost, user, exchange, *patterns)))

    def _close_all_connections(self, reason: str) -> None:
        self._broker.close_all(ConnectionForced(reason))

    def _set_memory_limit(self, fraction: str) -> None:
        self._broker.check_memory(_USED_BYTES, int(_MEMORY_BYTES * float(fraction)))
