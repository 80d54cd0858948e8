"""The command ``amqpbrokerctl``: rabbitmqctl's commands, over a node's HTTP API."""
