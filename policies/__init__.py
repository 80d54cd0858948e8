"""Policy files for usual cases, which ``amqpbrokerctl apply NAME`` finds."""
