"""One sends, one receives.

python hello_world.py receive [--url URL], and elsewhere: python hello_world.py send TEXT …
"""

import argparse

import pika
from pika.adapters.blocking_connection import BlockingChannel

QUEUE = "hello"


def send(channel: BlockingChannel, texts: list[str]) -> None:
    for text in texts:
        channel.basic_publish(exchange="", routing_key=QUEUE, body=text.encode())
        print(f"sent {text}", flush=True)


def receive(channel: BlockingChannel) -> None:
    print("ready", flush=True)
    for _method, _properties, body in channel.consume(QUEUE, auto_ack=True):
        print(f"received {body.decode()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=("send", "receive"))
    parser.add_argument("texts", nargs="*", default=[], metavar="TEXT")
    parser.add_argument("--url", default="amqp://guest:guest@127.0.0.1:5672/")
    options = parser.parse_args()
    with pika.BlockingConnection(pika.URLParameters(options.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE)
        if options.act == "send":
            send(channel, options.texts)
        else:
            receive(channel)


if __name__ == "__main__":
    main()
