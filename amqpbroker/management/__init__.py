"""The HTTP API and the metrics: RabbitMQ's management paths and keys, over the broker's objects."""
