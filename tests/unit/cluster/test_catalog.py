"""The definitions that outlive a node."""

import pytest

from amqpbroker.cluster.catalog import Catalog
from amqpbroker.cluster.records import decode_change, encode_change
from amqpbroker.definitions import (
    BindingDefinition,
    Definition,
    ExchangeDefinition,
    PermissionDefinition,
    QueueDefinition,
    UserDefinition,
    VHostDefinition,
    delete,
    put,
)

X = ExchangeDefinition("/", "x", "direct", durable=True)
Y = ExchangeDefinition("/", "y", "direct", durable=True)
Q = QueueDefinition("/", "q", durable=True)
X_TO_Q = BindingDefinition("/", "x", "q")
X_TO_Y = BindingDefinition("/", "x", "y", destination_type="exchange")
AMQ_TO_Q = BindingDefinition("/", "amq.direct", "q")


@pytest.fixture
def catalog() -> Catalog:
    catalog = Catalog()
    for definition in (VHostDefinition("/"), X, Y, Q, X_TO_Q, X_TO_Y, AMQ_TO_Q):
        catalog.apply(put(definition), encode_change(put(definition)))
    return catalog


def there(catalog: Catalog) -> list[Definition]:
    return [change.definition for change in catalog.changes()]


def test_what_names_others_comes_after_them(catalog: Catalog) -> None:
    assert there(catalog) == [VHostDefinition("/"), X, Y, Q, X_TO_Q, X_TO_Y, AMQ_TO_Q]
    lines = catalog.text().splitlines()
    assert [decode_change(line).definition for line in lines] == there(catalog)


def test_bindings_go_with_their_queue(catalog: Catalog) -> None:
    catalog.apply(delete(Q))

    assert there(catalog) == [VHostDefinition("/"), X, Y, X_TO_Y]


@pytest.mark.parametrize(("gone", "left"), [(X, [Y, Q, AMQ_TO_Q]), (Y, [X, Q, X_TO_Q, AMQ_TO_Q])])
def test_bindings_go_with_the_exchange_at_either_end(
    catalog: Catalog, gone: Definition, left: list[Definition]
) -> None:
    catalog.apply(delete(gone))

    assert there(catalog) == [VHostDefinition("/"), *left]


def test_everything_goes_with_its_virtual_host(catalog: Catalog) -> None:
    other = QueueDefinition("other", "q", durable=True)
    rights = PermissionDefinition("/", "ann", "", "", "")
    for definition in (VHostDefinition("other"), UserDefinition("ann", ""), rights, other):
        catalog.apply(put(definition))

    catalog.apply(delete(VHostDefinition("/")))

    assert there(catalog) == [VHostDefinition("other"), UserDefinition("ann", ""), other]


def test_rights_go_with_their_user(catalog: Catalog) -> None:
    for definition in (UserDefinition("ann", ""), PermissionDefinition("/", "ann", "", "", "")):
        catalog.apply(put(definition))

    catalog.apply(delete(UserDefinition("ann", "")))

    kinds = {type(each) for each in there(catalog)}
    assert not kinds & {PermissionDefinition, UserDefinition}


@pytest.mark.parametrize(
    ("definition", "outlives"),
    [
        (ExchangeDefinition("/", "z", "direct", durable=False), False),
        (ExchangeDefinition("/", "z", "direct", durable=True), True),
        (QueueDefinition("/", "z", durable=True), True),
        (QueueDefinition("/", "z", durable=False), False),
        (QueueDefinition("/", "z", durable=True, exclusive=True), False),
        (X_TO_Q, True),
        (AMQ_TO_Q, True),
        (BindingDefinition("/", "x", "transient"), False),
        (BindingDefinition("/", "transient", "q"), False),
        (UserDefinition("ann", ""), True),
    ],
)
def test_what_outlives_the_node(catalog: Catalog, definition: Definition, outlives: bool) -> None:
    assert catalog.outlives(definition) is outlives


def test_every_durable_queue_has_a_log_of_its_own(catalog: Catalog) -> None:
    ids = []
    for name in "abc":
        queue = catalog.numbered(QueueDefinition("/", name, durable=True))
        assert isinstance(queue, QueueDefinition)
        catalog.apply(put(queue))
        catalog.apply(delete(queue))
        ids.append(queue.log_id)

    assert len(set(ids)) == 3
    assert catalog.numbered(X) is X
