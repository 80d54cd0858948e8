"""Queues: they hold messages and hand them out."""
