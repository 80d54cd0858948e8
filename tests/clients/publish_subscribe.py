"""Everyone who listens gets everything.

python publish_subscribe.py listen [--url URL], several times, and: python publish_subscribe.py
say TEXT …
"""

import argparse

import pika
from pika.adapters.blocking_connection import BlockingChannel

EXCHANGE = "news"


def say(channel: BlockingChannel, texts: list[str]) -> None:
    for text in texts:
        channel.basic_publish(exchange=EXCHANGE, routing_key="", body=text.encode())
        print(f"said {text}", flush=True)


def listen(channel: BlockingChannel) -> None:
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, EXCHANGE)
    print("ready", flush=True)
    for _method, _properties, body in channel.consume(queue, auto_ack=True):
        print(f"heard {body.decode()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=("say", "listen"))
    parser.add_argument("texts", nargs="*", default=[], metavar="TEXT")
    parser.add_argument("--url", default="amqp://guest:guest@127.0.0.1:5672/")
    options = parser.parse_args()
    with pika.BlockingConnection(pika.URLParameters(options.url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, "fanout")
        if options.act == "say":
            say(channel, options.texts)
        else:
            listen(channel)


if __name__ == "__main__":
    main()
