"""The table of resources: every path, who may use it, and what its methods do."""

from amqpbroker.management import identities, operations, overview, policies, topology
from amqpbroker.management.access import administrator, any_user, policymaker, vhost_user
from amqpbroker.management.resource import Resource

RESOURCES = (
    Resource("/overview", any_user, get=overview.overview),
    Resource("/whoami", any_user, get=identities.whoami),
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
    # -- queues ----------------------------------------------------------------------------------
    Resource("/queues", vhost_user, get=topology.queues),
    Resource("/queues/{vhost}", vhost_user, get=topology.queues, exists=identities.vhost_exists),
    Resource(
        "/queues/{vhost}/{queue}",
        vhost_user,
        get=topology.queue,
        put=topology.put_queue,
        delete=topology.delete_queue,
        exists=topology.queue_exists,
    ),
    # -- what RabbitMQ has no path for -----------------------------------------------------------
    Resource(
        "/amqpbroker/nodes/{node}/stop",
        administrator,
        post=operations.stop,
        exists=operations.is_this_node,
    ),
)
