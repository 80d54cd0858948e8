"""From a message to the names of queues."""
