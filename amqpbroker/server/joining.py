"""How a node comes to its cluster and its data directory to it."""

import logging
import posixpath
from pathlib import Path

import attrs

from amqpbroker.broker.broker import first_definitions
from amqpbroker.cluster.etcd.client import EtcdClient
from amqpbroker.cluster.etcd.contract import KeyValueStore, Put
from amqpbroker.cluster.etcd.members import EtcdUser
from amqpbroker.cluster.members import new_id
from amqpbroker.cluster.membership import Membership
from amqpbroker.cluster.schema import Schema
from amqpbroker.cluster.upload import upload
from amqpbroker.errors import ConfigError
from amqpbroker.server.config import Config
from amqpbroker.server.keeping import Keeping
from amqpbroker.storage.directory import refusals
from amqpbroker.world import Network, World
from amqpbroker.world.tls import TlsNetwork, client_context, node_contexts

log = logging.getLogger(__name__)


def open_store(config: Config, world: World) -> EtcdClient:
    """The way to the etcd of the cluster. Raises `ConfigError`."""
    tls = user = None
    try:
        if any(url.startswith("https:") for url in config.cluster):
            tls = client_context(
                config.etcd_ca or None, config.etcd_cert or None, config.etcd_key or None
            )
        if config.etcd_user:
            password = Path(config.etcd_password_file).read_text().rstrip("\n")
            user = EtcdUser(config.etcd_user, password)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read what is for etcd: {error}") from error
    return EtcdClient(world.network, world.random, config.cluster, tls=tls, user=user)


def link_network(config: Config, network: Network) -> Network:
    """The network by which nodes reach each other, under TLS if so configured.

    Raises `ConfigError`.
    """
    if not config.link_cert:
        return network
    try:
        return TlsNetwork(
            network, *node_contexts(config.link_ca, config.link_cert, config.link_key)
        )
    except OSError as error:
        raise ConfigError(f"cannot use the certificates for the link: {error}") from error


class Joining:
    """Joins the node of ``config`` to its cluster: `join` gives its data directory and membership.

    So a node of which others have heard already can be told from one that comes anew:

    1. Its data directory has an id, before anything is told of it.
    2. The cluster is found, or begun. Then the directory says that it belongs to it.
    3. Who has begun it, and has definitions, brings them along; others wait for that.
    4. The node's count of starts is raised, first in the directory, then in the store: a directory
       that has counted less is an old copy.
    """

    def __init__(self, config: Config, world: World, store: KeyValueStore, folder: str) -> None:
        self._config = config
        self._world = world
        self._store = store
        self._folder = folder
        self._schema = Schema(config.cluster_name)

    async def join(self) -> tuple[Keeping, Membership]:
        """Be a member. Raises `ConfigError` and `DataError` if this is not where it belongs."""
        keeping = await self._open()
        try:
            membership = await self._meet(keeping)
            if not keeping.owner.cluster and keeping.definitions and not membership.uploads:
                self._check_discarding()
                keeping.close()
                self._put_aside()
                keeping = await self._open()
                membership = await self._meet(keeping)
            await self._enter(keeping, membership)
        except BaseException:
            keeping.close()
            raise
        return keeping, membership

    async def _open(self) -> Keeping:
        world = self._world
        keeping = await Keeping.open(world, self._folder, self._config.name, is_alone=False)
        if not keeping.owner.uuid:
            await keeping.sign(attrs.evolve(keeping.owner, uuid=new_id(world.random)))
        return keeping

    async def _meet(self, keeping: Keeping) -> Membership:
        """Find the cluster."""
        config, owner, store = self._config, keeping.owner, self._store
        membership = Membership(self._world, store, config.cluster_name, config.name, owner.uuid)
        if isinstance(store, EtcdClient):
            etcd = store
            warnings = await membership.insist(
                lambda: etcd.check_versions(development=config.etcd_development)
            )
            for warning in warnings:
                log.warning("%s", warning)
        first = first_definitions(config.default_user, config.default_pass, self._world.random)
        puts = [Put(self._schema.key(each), self._schema.value(each)) for each in first]
        brings = not owner.cluster and bool(keeping.definitions)
        await membership.find(owner.cluster, () if brings else puts, brings=brings)
        return membership

    async def _enter(self, keeping: Keeping, membership: Membership) -> None:
        """Belong to the cluster that was found, from now on and after any crash."""
        name, owner = self._config.name, keeping.owner
        if not owner.cluster:
            await keeping.sign(attrs.evolve(owner, cluster=membership.cluster_id))
        if membership.uploads:
            own = keeping.definitions
            log.info("%d definitions of this node are brought to the cluster", len(own))
            await membership.insist(lambda: upload(self._store, self._schema, own, name))
            await membership.uploaded()

        async def remember(incarnation: int) -> None:
            await keeping.sign(attrs.evolve(keeping.owner, incarnation=incarnation))

        await membership.begin(
            is_known=bool(owner.cluster), remembered=owner.incarnation, remember=remember
        )

    def _check_discarding(self) -> None:
        config = self._config
        if not config.join_discarding_definitions:
            raise ConfigError(
                f"the data directory {self._folder} has definitions of its own, and cluster"
                f" '{config.cluster_name}' has others: start the node with an empty --data-dir, or"
                " with --join-discarding-definitions, which puts the old one aside"
            )

    def _put_aside(self) -> None:
        """Give the data directory another name."""
        disk, folder = self._world.disk, posixpath.normpath(self._folder)
        with refusals(disk, folder):
            names = set(disk.names(posixpath.dirname(folder) or "."))
            number = 1
            while f"{posixpath.basename(folder)}.discarded-{number}" in names:
                number += 1
            disk.rename(folder, f"{folder}.discarded-{number}")
        log.warning("%s is %s.discarded-%d from now on", folder, folder, number)
