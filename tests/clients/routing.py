"""Everyone gets what they asked for: log lines by severity.

python routing.py watch error warning … [--url URL], and: python routing.py log error TEXT
"""

import argparse

import pika
from pika.adapters.blocking_connection import BlockingChannel

EXCHANGE = "log_by_severity"


def log(channel: BlockingChannel, severity: str, text: str) -> None:
    channel.basic_publish(exchange=EXCHANGE, routing_key=severity, body=text.encode())
    print(f"logged {severity} {text}", flush=True)


def watch(channel: BlockingChannel, severities: list[str]) -> None:
    queue = channel.queue_declare("", exclusive=True).method.queue
    for severity in severities:
        channel.queue_bind(queue, EXCHANGE, routing_key=severity)
    print("ready", flush=True)
    for method, _properties, body in channel.consume(queue, auto_ack=True):
        print(f"{method.routing_key} {body.decode()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=("log", "watch"))
    parser.add_argument("words", nargs="+", help="SEVERITY TEXT, or SEVERITY …")
    parser.add_argument("--url", default="amqp://guest:guest@127.0.0.1:5672/")
    options = parser.parse_args()
    with pika.BlockingConnection(pika.URLParameters(options.url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, "direct")
        if options.act == "log":
            log(channel, options.words[0], " ".join(options.words[1:]))
        else:
            watch(channel, options.words)


if __name__ == "__main__":
    main()
