"""Tasks that are shared among workers, and survive the death of one.

python work_queues.py worker [--ask] [--url URL], several times, and: python work_queues.py add
TASK … With --ask a task is finished when a line comes on standard input, else at once.
"""

import argparse
import sys

import pika
from pika.adapters.blocking_connection import BlockingChannel

QUEUE = "tasks"


def add(channel: BlockingChannel, tasks: list[str]) -> None:
    channel.confirm_delivery()
    for task in tasks:
        channel.basic_publish(
            exchange="",
            routing_key=QUEUE,
            body=task.encode(),
            properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
        )
        print(f"added {task}", flush=True)


def work(channel: BlockingChannel, ask: bool) -> None:
    # A worker that is at work gets nothing more until it is done: the next one may be idle.
    channel.basic_qos(prefetch_count=1)
    print("ready", flush=True)
    for method, _properties, body in channel.consume(QUEUE):
        task = body.decode()
        print(f"began {task}{' again' if method.redelivered else ''}", flush=True)
        if ask:
            sys.stdin.readline()
        channel.basic_ack(method.delivery_tag)
        print(f"finished {task}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=("add", "worker"))
    parser.add_argument("tasks", nargs="*", default=[], metavar="TASK")
    parser.add_argument("--ask", action="store_true")
    parser.add_argument("--url", default="amqp://guest:guest@127.0.0.1:5672/")
    options = parser.parse_args()
    with pika.BlockingConnection(pika.URLParameters(options.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        if options.act == "add":
            add(channel, options.tasks)
        else:
            work(channel, options.ask)


if __name__ == "__main__":
    main()
