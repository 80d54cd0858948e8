"""The broker: definitions come in, sessions work on them."""

import logging
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from amqpbroker import __version__
from amqpbroker.broker.access import Access, hash_password, is_loopback, password_matches
from amqpbroker.broker.counts import Churn
from amqpbroker.broker.deadlines import Deadlines
from amqpbroker.broker.direct_reply import Replies
from amqpbroker.broker.keeper import QueueKeeper
from amqpbroker.broker.quotas import Quotas
from amqpbroker.broker.turn import Turn
from amqpbroker.broker.vhost import VHost
from amqpbroker.cluster.coordinator import Coordinator, ForgetfulCoordinator
from amqpbroker.definitions import (
    CLUSTER_NAME,
    BindingDefinition,
    Change,
    Definition,
    ExchangeDefinition,
    GlobalParameterDefinition,
    ParameterDefinition,
    PermissionDefinition,
    PolicyDefinition,
    QueueDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    VHostDefinition,
    put,
)
from amqpbroker.errors import ConnectionForced, HardError, Overtaken
from amqpbroker.protocol.intake import WireLimits
from amqpbroker.queues.classic import ClassicQueues
from amqpbroker.queues.queue import Pending, QueueType
from amqpbroker.routing.router import predeclared
from amqpbroker.world import World

if TYPE_CHECKING:
    from amqpbroker.broker.session import Session

log = logging.getLogger(__name__)

_AGAIN_S = 1.0
"""What has to be decided, and cannot be for now, is tried again after so long."""


@attrs.frozen
class BrokerLimits:
    """What the broker takes from its peers at most.

    Past a limit the peer waits or gets the right AMQP error, and nobody else is disturbed.
    """

    wire: WireLimits = attrs.Factory(WireLimits)
    connections_max: int = 20_000
    consumers_per_channel_max: int = 10_000
    queues_per_vhost_max: int = 1_000_000
    outbox_bytes_max: int = 1024 * 1024
    """Over it, a connection's consumers get nothing more until the peer has taken some."""
    replies_bytes_max: int = 4 * 1024 * 1024
    """Over it, a connection is not read any more: its peer asks without listening."""
    parked_bytes_max: int = 1024 * 1024
    """Frames that wait behind a method that waits; over it, the connection is not read."""
    uncommitted_connection_bytes_max: int = 8 * 1024 * 1024
    uncommitted_node_bytes_max: int = 64 * 1024 * 1024
    routes_per_channel_max: int = 1024
    transaction_bytes_max: int = 256 * 1024 * 1024
    """What a channel may publish before it commits."""
    direct_replies_bytes_max: int = 16 * 1024 * 1024
    """Direct replies over it are lost if their consumer does not take what it has."""
    pending_s_max: float = 30.0
    """How long a method may wait for its answer."""
    closing_s_max: float = 5.0
    """How long the answer to a peer's close waits for the end of its own queues."""


class Broker:
    """All virtual hosts and users of a node, and what its sessions share."""

    def __init__(
        self,
        world: World,
        limits: BrokerLimits | None = None,
        name: str = "rabbit@localhost",
        queue_types: Mapping[str, QueueType] | None = None,
    ) -> None:
        self.world = world
        self.limits = limits or BrokerLimits()
        self.name = name
        self._queue_types = queue_types or {"classic": ClassicQueues()}
        self.coordinator: Coordinator = ForgetfulCoordinator(self.apply)
        self.turn = Turn()
        self.deadlines = Deadlines()
        self._keeper = QueueKeeper(self.turn.wake, world.clock, self.deadlines, self.see_to)
        self.replies = Replies(name)
        self.vhosts: dict[str, VHost] = {}
        self.users: dict[str, UserDefinition] = {}
        self.global_parameters: dict[str, GlobalParameterDefinition] = {}
        self._permissions: dict[tuple[str, str], PermissionDefinition] = {}
        self._topic_permissions: dict[tuple[str, str], dict[str, TopicPermissionDefinition]] = {}
        self.sessions: dict[Session, None] = {}
        self.quotas = Quotas()
        self.held_sessions: dict[Session, None] = {}
        """Those that are not read for now."""
        self.uncommitted_bytes = 0
        self.churn = Churn()
        self.alarms: tuple[str, ...] = ()
        """Resources that run low ("memory"), in RabbitMQ's words."""

    def boot(self, user: str, password: str) -> None:
        """Begin with what a new node has."""
        for definition in first_definitions(user, password, self.world.random):
            self.submit(put(definition))

    @property
    def cluster_name(self) -> str | None:
        """What the cluster is called, if somebody has said so."""
        said = self.global_parameters.get(CLUSTER_NAME)
        return None if said is None else str(said.value)

    # -- definitions ---------------------------------------------------------------------------

    def submit(self, change: Change) -> Pending[None] | None:
        """Have a change decided on, and carried out.

        The answer comes when it will last; None: it need not.
        """
        decided = self.coordinator.submit(change)
        vhost = self.vhosts.get(getattr(change.definition, "vhost", ""))
        if vhost is None:
            return decided
        vhost.delete_unused()  # As far as the change is carried out already.
        return decided and decided.chain(lambda _: vhost.delete_unused())

    def see_to(self, change: Change) -> Pending[None] | None:
        """As `submit`, of a change that has to come, however long it takes.

        The answer never fails: when something else was decided first, that is as good.
        """
        decided = self.submit(change)
        if decided is None:
            return None
        seen: Pending[None] = Pending()

        def fail(error: Exception) -> None:
            if isinstance(error, Overtaken):
                seen.resolve(None)
                return
            log.warning("%s; it is tried again", error)
            now_s = self.world.clock.monotonic_s()
            self.deadlines.at(now_s + _AGAIN_S, lambda _: seen.follow(lambda: self.see_to(change)))

        decided.then, decided.otherwise = seen.resolve, fail
        return seen

    def apply(self, change: Change) -> None:
        """Carry out a change that was decided on: the one way in for definitions."""
        _APPLIERS[change.act, type(change.definition)](self, change.definition)

    def _put_vhost(self, definition: VHostDefinition) -> None:
        vhost = self.vhosts.get(definition.name)
        if vhost is not None:
            vhost.definition = definition
            return
        vhost = VHost(
            definition,
            self._queue_types,
            self.submit,
            self.see_to,
            self._keeper,
            self.replies,
        )
        self.vhosts[definition.name] = vhost
        for exchange in predeclared(definition.name):
            vhost.put_exchange(exchange)

    def _drop_vhost(self, definition: VHostDefinition) -> None:
        vhost = self.vhosts[definition.name]
        for session in list(self.sessions):
            if session.vhost is vhost:
                session.fail(ConnectionForced(f"vhost '{definition.name}' is deleted"))
        vhost.close()
        for records in (self._permissions, self._topic_permissions):
            for key in [key for key in records if key[0] == definition.name]:
                del records[key]
        del self.vhosts[definition.name]  # Last: what ends above still submits changes of its own.

    def _put_user(self, definition: UserDefinition) -> None:
        self.users[definition.name] = definition
        self._renew_access(definition.name)

    def _drop_user(self, definition: UserDefinition) -> None:
        del self.users[definition.name]
        for records in (self._permissions, self._topic_permissions):
            for key in [key for key in records if key[1] == definition.name]:
                del records[key]
        for session in list(self.sessions):
            if session.user is not None and session.user.name == definition.name:
                session.fail(ConnectionForced(f"user '{definition.name}' is deleted"))

    def _put_permission(self, definition: PermissionDefinition) -> None:
        self._permissions[definition.vhost, definition.user] = definition
        self._renew_access(definition.user)

    def _drop_permission(self, definition: PermissionDefinition) -> None:
        del self._permissions[definition.vhost, definition.user]
        self._renew_access(definition.user)

    def _put_topic_permission(self, definition: TopicPermissionDefinition) -> None:
        records = self._topic_permissions.setdefault((definition.vhost, definition.user), {})
        records[definition.exchange] = definition
        self._renew_access(definition.user)

    def _drop_topic_permission(self, definition: TopicPermissionDefinition) -> None:
        del self._topic_permissions[definition.vhost, definition.user][definition.exchange]
        self._renew_access(definition.user)

    def _put_global_parameter(self, definition: GlobalParameterDefinition) -> None:
        self.global_parameters[definition.name] = definition

    def _drop_global_parameter(self, definition: GlobalParameterDefinition) -> None:
        del self.global_parameters[definition.name]

    # -- access --------------------------------------------------------------------------------

    def login(self, user: str, password: str, host: str) -> UserDefinition | None:
        """The user, if name and password are right and it may come from ``host``.

        Guest only from loopback.
        """
        definition = self.users.get(user)
        if definition is None or not password_matches(definition, password):
            log.warning("login of user %r from %s refused: invalid credentials", user, host)
            return None
        if user == "guest" and not is_loopback(host):
            log.warning("login of user %r from %s refused: only from loopback", user, host)
            return None
        return definition

    def may_enter(self, user: str, vhost: str) -> bool:
        """Whether a user has any permissions in a virtual host."""
        return (vhost, user) in self._permissions

    def permissions(self) -> list[PermissionDefinition]:
        """What everybody may do."""
        return list(self._permissions.values())

    def permission(self, vhost: str, user: str) -> PermissionDefinition | None:
        """What a user may do in a virtual host; None: nothing at all."""
        return self._permissions.get((vhost, user))

    def topic_permissions(self) -> list[TopicPermissionDefinition]:
        """Which routing keys are not for everybody."""
        return [each for there in self._topic_permissions.values() for each in there.values()]

    def access(self, user: UserDefinition, vhost: str) -> Access:
        """What ``user`` may do in a virtual host, as the records stand."""
        key = vhost, user.name
        return Access(user, self._permissions.get(key), self._topic_permissions.get(key, {}))

    def _renew_access(self, user: str) -> None:
        """A record of the user has changed: who is here under that name is judged anew."""
        for session in self.sessions:
            if session.user is not None and session.user.name == user:
                session.renew_access()

    # -- flow ----------------------------------------------------------------------------------

    def account_uncommitted(self, change_bytes: int) -> None:
        """Octets were accepted that are not committed yet, or (negative) have been."""
        self.uncommitted_bytes += change_bytes
        if change_bytes < 0:
            for session in list(self.held_sessions):
                session.release()

    def check_memory(self, used_bytes: int, limit_bytes: int) -> None:
        """Raise or clear the memory alarm (RabbitMQ: vm_memory_high_watermark)."""
        self.set_alarm("memory", used_bytes > limit_bytes)

    def set_alarm(self, resource: str, is_low: bool) -> None:
        """Raise or clear the alarm of a resource: publishers are held back while one is low."""
        if (resource in self.alarms) == is_low:
            return
        others = tuple(name for name in self.alarms if name != resource)
        self.alarms = (*others, resource) if is_low else others
        log.warning("resource alarms: %s", ", ".join(self.alarms) or "none any more")
        for session in list(self.sessions):
            session.alarm_changed()

    def close_all(self, error: HardError) -> None:
        """Close every connection with ``error``."""
        for session in list(self.sessions):
            session.fail(error)

    def server_properties(self) -> dict[str, Any]:
        """What a client is told at the start.

        Clients switch behaviour on product, version and capabilities.
        """
        return {
            "capabilities": {
                "publisher_confirms": True,
                "exchange_exchange_bindings": True,
                "basic.nack": True,
                "consumer_cancel_notify": True,
                "connection.blocked": True,
                "consumer_priorities": True,
                "authentication_failure_close": True,
                "per_consumer_qos": True,
                "direct_reply_to": True,
            },
            "cluster_name": self.cluster_name or self.name,
            "copyright": "the amqpbroker authors",
            "information": "Licensed under the Apache License 2.0",
            "platform": "Python",
            "product": "RabbitMQ",
            "version": "3.13.7",
            "amqpbroker_version": __version__,
        }


def first_definitions(user: str, password: str, rng: random.Random) -> list[Definition]:
    """What a new broker has: the virtual host ``/``, and one user who may do all."""
    return [
        VHostDefinition("/", "Default virtual host"),
        UserDefinition(user, hash_password(password, rng), ("administrator",)),
        PermissionDefinition("/", user, ".*", ".*", ".*"),
    ]


def _in_vhost(act: str) -> Callable[[Broker, Any], None]:
    """An applier that hands the definition to its virtual host."""

    def apply(broker: Broker, definition: Any) -> None:
        getattr(broker.vhosts[definition.vhost], act)(definition)

    return apply


_APPLIERS: dict[tuple[str, type], Callable[[Broker, Any], None]] = {
    ("put", VHostDefinition): Broker._put_vhost,
    ("delete", VHostDefinition): Broker._drop_vhost,
    ("put", UserDefinition): Broker._put_user,
    ("delete", UserDefinition): Broker._drop_user,
    ("put", PermissionDefinition): Broker._put_permission,
    ("delete", PermissionDefinition): Broker._drop_permission,
    ("put", TopicPermissionDefinition): Broker._put_topic_permission,
    ("delete", TopicPermissionDefinition): Broker._drop_topic_permission,
    ("put", PolicyDefinition): _in_vhost("put_policy"),
    ("delete", PolicyDefinition): _in_vhost("drop_policy"),
    ("put", ParameterDefinition): _in_vhost("put_parameter"),
    ("delete", ParameterDefinition): _in_vhost("drop_parameter"),
    ("put", GlobalParameterDefinition): Broker._put_global_parameter,
    ("delete", GlobalParameterDefinition): Broker._drop_global_parameter,
    ("put", ExchangeDefinition): _in_vhost("put_exchange"),
    ("delete", ExchangeDefinition): _in_vhost("drop_exchange"),
    ("put", QueueDefinition): _in_vhost("put_queue"),
    ("delete", QueueDefinition): _in_vhost("drop_queue"),
    ("put", BindingDefinition): _in_vhost("put_binding"),
    ("delete", BindingDefinition): _in_vhost("drop_binding"),
}
