"""When the garbage collector may look at everything."""

import gc

import pytest

from amqpbroker.server.collector import no_collections


def test_what_is_made_without_collections_is_never_looked_at_by_them():
    before = gc.get_freeze_count()
    try:
        with no_collections():
            assert not gc.isenabled()
            made = [[] for _ in range(1000)]

        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(made)
    finally:
        gc.unfreeze()


def test_a_start_that_fails_gives_the_collector_back():
    with pytest.raises(OSError, match="no start"), no_collections():
        raise OSError("no start")

    assert gc.isenabled()
