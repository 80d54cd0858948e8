"""What the nodes of a cluster share: a contract, and etcd behind it."""
