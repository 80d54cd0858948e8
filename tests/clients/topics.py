"""Everyone gets what fits their patterns: log lines by source and severity.

python topics.py watch 'kern.*' '*.critical' … [--url URL], and: python topics.py log kern.critical
TEXT
"""

import argparse

import pika
from pika.adapters.blocking_connection import BlockingChannel

EXCHANGE = "log_by_topic"


def log(channel: BlockingChannel, topic: str, text: str) -> None:
    channel.basic_publish(exchange=EXCHANGE, routing_key=topic, body=text.encode())
    print(f"logged {topic} {text}", flush=True)


def watch(channel: BlockingChannel, patterns: list[str]) -> None:
    queue = channel.queue_declare("", exclusive=True).method.queue
    for pattern in patterns:
        channel.queue_bind(queue, EXCHANGE, routing_key=pattern)
    print("ready", flush=True)
    for method, _properties, body in channel.consume(queue, auto_ack=True):
        print(f"{method.routing_key} {body.decode()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=("log", "watch"))
    parser.add_argument("words", nargs="+", help="TOPIC TEXT, or PATTERN …")
    parser.add_argument("--url", default="amqp://guest:guest@127.0.0.1:5672/")
    options = parser.parse_args()
    with pika.BlockingConnection(pika.URLParameters(options.url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, "topic")
        if options.act == "log":
            log(channel, options.words[0], " ".join(options.words[1:]))
        else:
            watch(channel, options.words)


if __name__ == "__main__":
    main()
