"""The table of resources: every path, who may use it, and what its methods do.

The paths, their methods and guards are RabbitMQ's (rabbit_mgmt_dispatcher.erl). The first path that
fits is taken.
"""

from amqpbroker.management import (
    connections,
    definitions,
    features,
    health,
    identities,
    limits,
    messages,
    nodes,
    operations,
    overview,
    parameters,
    policies,
    topology,
)
from amqpbroker.management.access import (
    administrator,
    any_user,
    global_policymaker,
    monitor,
    policymaker,
    vhost_observer,
    vhost_user,
)
from amqpbroker.management.resource import Resource

RESOURCES = (
    Resource("/overview", any_user, get=overview.overview),
    Resource("/cluster-name", any_user, get=overview.cluster_name, put=overview.put_cluster_name),
    Resource("/nodes", monitor, get=nodes.nodes),
    Resource("/nodes/{node}", monitor, get=nodes.node),
    Resource("/nodes/{node}/memory", monitor, get=nodes.memory),
    Resource("/nodes/{node}/memory/relative", monitor, get=nodes.relative_memory),
    Resource("/extensions", any_user, get=overview.extensions),
    Resource("/rebalance/queues", administrator, post=overview.rebalance),
    Resource("/whoami", any_user, get=identities.whoami),
    Resource("/auth", any_user, get=identities.auth),
    Resource("/auth/hash_password/{password}", administrator, get=identities.hashed_password),
    # -- definitions and parameters --------------------------------------------------------------
    *(
        Resource(path, administrator, get=definitions.export, post=definitions.take_in)
        for path in ("/definitions", "/all-configuration")
    ),
    Resource(
        "/definitions/{vhost}", administrator, get=definitions.export, post=definitions.take_in
    ),
    *(
        Resource(path, policymaker, get=parameters.parameters)
        for path in ("/parameters", "/parameters/{component}")
    ),
    Resource(
        "/parameters/{component}/{vhost}",
        policymaker,
        get=parameters.parameters,
        exists=identities.vhost_exists,
    ),
    Resource(
        "/parameters/{component}/{vhost}/{name}",
        policymaker,
        get=parameters.parameter,
        put=parameters.put_parameter,
        delete=parameters.delete_parameter,
        exists=parameters.parameter_exists,
    ),
    Resource("/global-parameters", global_policymaker, get=parameters.global_parameters),
    Resource(
        "/global-parameters/{name}",
        global_policymaker,
        get=parameters.global_parameter,
        put=parameters.put_global_parameter,
        delete=parameters.delete_global_parameter,
        exists=parameters.global_parameter_exists,
    ),
    Resource("/vhost-limits", vhost_observer, get=limits.vhost_limits),
    Resource(
        "/vhost-limits/{vhost}",
        vhost_observer,
        get=limits.vhost_limits,
        exists=identities.vhost_exists,
    ),
    Resource(
        "/vhost-limits/{vhost}/{name}",
        administrator,
        put=limits.put_vhost_limit,
        delete=limits.delete_vhost_limit,
    ),
    Resource("/user-limits", vhost_observer, get=limits.user_limits),
    Resource(
        "/user-limits/{user}",
        vhost_observer,
        get=limits.user_limits,
        exists=identities.user_exists,
    ),
    Resource(
        "/user-limits/{user}/{name}",
        administrator,
        put=limits.put_user_limit,
        delete=limits.delete_user_limit,
    ),
    Resource("/feature-flags", any_user, get=features.flags),
    Resource(
        "/feature-flags/{name}/enable",
        administrator,
        put=features.enable,
        exists=features.is_flag,
    ),
    Resource("/deprecated-features", any_user, get=parameters.empty),
    Resource("/deprecated-features/used", any_user, get=parameters.empty),
    # -- connections -----------------------------------------------------------------------------
    Resource("/connections", any_user, get=connections.connections),
    Resource(
        "/connections/username/{username}",
        any_user,
        get=connections.user_connections,
        delete=connections.close_user_connections,
    ),
    Resource(
        "/connections/{connection}",
        any_user,
        get=connections.connection,
        delete=connections.close_connection,
        exists=connections.connection_exists,
    ),
    Resource(
        "/connections/{connection}/channels",
        any_user,
        get=connections.connection_channels,
        exists=connections.connection_exists,
    ),
    Resource("/channels", any_user, get=connections.channels),
    Resource(
        "/channels/{channel}",
        any_user,
        get=connections.channel,
        exists=connections.channel_exists,
    ),
    Resource("/consumers", any_user, get=connections.consumers),
    Resource(
        "/consumers/{vhost}",
        vhost_user,
        get=connections.consumers,
        exists=identities.vhost_exists,
    ),
    # -- virtual hosts, users, permissions -------------------------------------------------------
    Resource("/vhosts", any_user, get=identities.vhosts),
    Resource(
        "/vhosts/{vhost}",
        administrator,
        get=identities.vhost,
        put=identities.put_vhost,
        delete=identities.delete_vhost,
        exists=identities.vhost_exists,
    ),
    Resource(
        "/vhosts/{vhost}/permissions",
        administrator,
        get=identities.vhost_permissions,
        exists=identities.vhost_exists,
    ),
    Resource(
        "/vhosts/{vhost}/topic-permissions",
        administrator,
        get=identities.vhost_topic_permissions,
        exists=identities.vhost_exists,
    ),
    Resource(
        "/vhosts/{vhost}/connections",
        vhost_user,
        get=connections.connections,
        exists=identities.vhost_exists,
    ),
    Resource(
        "/vhosts/{vhost}/channels",
        vhost_user,
        get=connections.channels,
        exists=identities.vhost_exists,
    ),
    Resource(
        "/vhosts/{vhost}/start/{node}",
        administrator,
        post=health.start_vhost,
        exists=identities.vhost_exists,
    ),
    Resource("/users", administrator, get=identities.users),
    Resource("/users/bulk-delete", administrator, post=identities.delete_users),
    Resource("/users/without-permissions", administrator, get=identities.users_without_permissions),
    Resource(
        "/users/{user}",
        administrator,
        get=identities.user,
        put=identities.put_user,
        delete=identities.delete_user,
        exists=identities.user_exists,
    ),
    Resource(
        "/users/{user}/permissions",
        administrator,
        get=identities.user_permissions,
        exists=identities.user_exists,
    ),
    Resource(
        "/users/{user}/topic-permissions",
        administrator,
        get=identities.user_topic_permissions,
        exists=identities.user_exists,
    ),
    Resource("/permissions", administrator, get=identities.permissions),
    Resource(
        "/permissions/{vhost}/{user}",
        administrator,
        get=identities.permission,
        put=identities.put_permission,
        delete=identities.delete_permission,
        exists=identities.permission_exists,
    ),
    Resource("/topic-permissions", administrator, get=identities.topic_permissions),
    *(
        Resource(
            path,
            administrator,
            get=identities.topic_permission,
            put=identities.put_topic_permission,
            delete=identities.delete_topic_permission,
            exists=identities.topic_permission_exists,
        )
        for path in (
            "/topic-permissions/{vhost}/{user}",
            "/topic-permissions/{vhost}/{user}/{exchange}",
        )
    ),
    # -- policies --------------------------------------------------------------------------------
    Resource("/policies", vhost_user, get=policies.USERS.list),
    Resource(
        "/policies/{vhost}", vhost_user, get=policies.USERS.list, exists=identities.vhost_exists
    ),
    Resource(
        "/policies/{vhost}/{name}",
        policymaker,
        get=policies.USERS.get,
        put=policies.USERS.put,
        delete=policies.USERS.delete,
        exists=policies.USERS.exists,
    ),
    Resource("/operator-policies", vhost_user, get=policies.OPERATORS.list),
    Resource(
        "/operator-policies/{vhost}",
        vhost_user,
        get=policies.OPERATORS.list,
        exists=identities.vhost_exists,
    ),
    Resource(
        "/operator-policies/{vhost}/{name}",
        administrator,
        get=policies.OPERATORS.get,
        put=policies.OPERATORS.put,
        delete=policies.OPERATORS.delete,
        exists=policies.OPERATORS.exists,
    ),
    # -- exchanges -------------------------------------------------------------------------------
    Resource("/exchanges", vhost_user, get=topology.exchanges),
    Resource(
        "/exchanges/{vhost}", vhost_user, get=topology.exchanges, exists=identities.vhost_exists
    ),
    Resource(
        "/exchanges/{vhost}/{exchange}",
        vhost_user,
        get=topology.exchange,
        put=topology.put_exchange,
        delete=topology.delete_exchange,
        exists=topology.exchange_exists,
    ),
    Resource(
        "/exchanges/{vhost}/{exchange}/publish",
        vhost_user,
        post=messages.publish,
        exists=messages.exchange_is_there,
    ),
    Resource(
        "/exchanges/{vhost}/{exchange}/bindings/source",
        vhost_user,
        get=topology.bindings_from_exchange,
        exists=identities.vhost_exists,
    ),
    Resource(
        "/exchanges/{vhost}/{exchange}/bindings/destination",
        vhost_user,
        get=topology.bindings_to_exchange,
        exists=identities.vhost_exists,
    ),
    # -- queues ----------------------------------------------------------------------------------
    Resource("/queues", vhost_user, get=topology.queues),
    Resource("/queues/detailed", vhost_user, get=topology.queues),
    Resource("/queues/{vhost}", vhost_user, get=topology.queues, exists=identities.vhost_exists),
    Resource(
        "/queues/{vhost}/{queue}",
        vhost_user,
        get=topology.queue,
        put=topology.put_queue,
        delete=topology.delete_queue,
        exists=topology.queue_exists,
    ),
    Resource(
        "/queues/{vhost}/{queue}/bindings",
        vhost_user,
        get=topology.bindings_to_queue,
        exists=identities.vhost_exists,
    ),
    Resource(
        "/queues/{vhost}/{queue}/contents",
        vhost_user,
        delete=messages.purge,
        exists=topology.queue_exists,
    ),
    Resource(
        "/queues/{vhost}/{queue}/get",
        vhost_user,
        post=messages.get,
        exists=messages.queue_is_there,
    ),
    Resource(
        "/queues/{vhost}/{queue}/actions",
        administrator,
        post=messages.act,
        exists=messages.queue_is_there,
    ),
    # -- bindings --------------------------------------------------------------------------------
    Resource("/bindings", vhost_user, get=topology.bindings),
    Resource(
        "/bindings/{vhost}", vhost_user, get=topology.bindings, exists=identities.vhost_exists
    ),
    Resource(
        "/bindings/{vhost}/e/{source}/{dtype}/{destination}",
        vhost_user,
        get=topology.bindings_between,
        post=topology.bind,
    ),
    Resource(
        "/bindings/{vhost}/e/{source}/{dtype}/{destination}/{props}",
        vhost_user,
        get=topology.binding,
        delete=topology.unbind,
        exists=topology.binding_exists,
    ),
    # -- health ----------------------------------------------------------------------------------
    Resource(
        "/aliveness-test/{vhost}",
        vhost_user,
        get=health.aliveness,
        exists=identities.vhost_exists,
    ),
    Resource("/healthchecks/node", any_user, get=health.node),
    Resource("/healthchecks/node/{node}", any_user, get=health.node),
    Resource("/health/checks/alarms", any_user, get=health.alarms),
    Resource("/health/checks/local-alarms", any_user, get=health.local_alarms),
    Resource(
        "/health/checks/certificate-expiration/{within}/{unit}", any_user, get=health.certificates
    ),
    Resource("/health/checks/port-listener/{port}", any_user, get=health.port),
    Resource("/health/checks/protocol-listener/{protocol}", any_user, get=health.protocol),
    Resource("/health/checks/virtual-hosts", any_user, get=health.virtual_hosts),
    Resource("/health/checks/node-is-mirror-sync-critical", any_user, get=health.critical),
    Resource("/health/checks/node-is-quorum-critical", any_user, get=health.critical),
    # -- what RabbitMQ has no path for -----------------------------------------------------------
    *(
        Resource(
            f"/amqpbroker/nodes/{{node}}/{action}",
            administrator,
            post=act,
            exists=operations.is_this_node,
        )
        for action, act in (
            ("settings", operations.configure),
            ("stop", operations.stop),
            ("drain", operations.drain),
            ("revive", operations.revive),
            ("suspend", operations.suspend),
            ("resume", operations.resume),
        )
    ),
    Resource("/amqpbroker/nodes/{node}", administrator, delete=operations.forget),
    Resource("/amqpbroker/policies/{vhost}", policymaker, post=policies.apply),
)
