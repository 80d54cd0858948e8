"""Who owns what, and who decides: definitions, nodes, and the ways between them.

**What there is.** `catalog` has all definitions that outlive a node, `records` writes them as
lines. A `Coordinator` decides on changes: that of a single node keeps them in its log; that of a
cluster (`shared`) makes them `deeds` for the store that all nodes share (`etcd`, keys and values by
`schema`), and the `feed` brings them back, in one order for all. `upload` begins a cluster with
what a node has.

**Who is there.** `members` are the records of nodes, `membership` keeps that of this one, the
`roster` knows the others. `deaths` knows of ends before leases do, `leavings` clears up after them,
`placement` says which node leads a new queue.

**Ways between nodes.** Every node dials every other: it asks on the streams that it has dialled,
and answers on those that it was dialled on. `wire` has the frames and what the users of a stream
see of it, `hello` how two nodes prove who they are, `link` one end of a stream's life, `links` all
of them.

**Queues elsewhere.** `queue_frames` is what is said of queues. At the asking end, `remote` has a
`remote_node` for each other node, with a `remote_queue` for each queue there, whose consumers
(`remote_consumers`) tell how much they take; `remote_reply` is for direct replies. At the end that
leads the queue, `serving` does what is asked, with an `attachment` for each queue that a stream
speaks of, and `link_consumers`. `cluster_queues` opens a queue as the one or the other. `reports`
are what nodes tell each other beside queues.

**Mirrors.** `leaders` and `mirrors` are the two ends of a queue's replication, for all queues of a
node, over the same streams; `replica_frames` is what they say.
"""
