"""One running node: configuration, listeners, tasks."""
