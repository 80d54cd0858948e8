"""A function that is called through a queue.

python rpc.py serve [--url URL], several times for more of them, and: python rpc.py call 10 20 30
All calls are made at once; answers come in any order, and are told apart by their correlation ids.
"""

import argparse
import uuid

import pika
from pika.adapters.blocking_connection import BlockingChannel

QUEUE = "fibonacci"


def fibonacci(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def serve(channel: BlockingChannel) -> None:
    channel.queue_declare(QUEUE)
    channel.basic_qos(prefetch_count=1)
    print("ready", flush=True)
    for method, properties, body in channel.consume(QUEUE):
        channel.basic_publish(
            exchange="",
            routing_key=properties.reply_to,
            body=b"%d" % fibonacci(int(body)),
            properties=pika.BasicProperties(correlation_id=properties.correlation_id),
        )
        channel.basic_ack(method.delivery_tag)
        print(f"answered {int(body)}", flush=True)


def call(channel: BlockingChannel, numbers: list[int]) -> dict[int, int]:
    channel.queue_declare(QUEUE)
    callback = channel.queue_declare("", exclusive=True).method.queue
    open_calls = {str(uuid.uuid4()): number for number in numbers}
    for correlation_id, number in open_calls.items():
        properties = pika.BasicProperties(reply_to=callback, correlation_id=correlation_id)
        channel.basic_publish("", QUEUE, b"%d" % number, properties)
    answers: dict[int, int] = {}
    for _method, properties, body in channel.consume(callback, auto_ack=True):
        number = open_calls.pop(properties.correlation_id, None)
        if number is not None:  # Else it answers somebody else's question.
            answers[number] = int(body)
        if not open_calls:
            break
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=("serve", "call"))
    parser.add_argument("numbers", nargs="*", type=int, default=[], metavar="N")
    parser.add_argument("--url", default="amqp://guest:guest@127.0.0.1:5672/")
    options = parser.parse_args()
    with pika.BlockingConnection(pika.URLParameters(options.url)) as connection:
        channel = connection.channel()
        if options.act == "serve":
            serve(channel)
        else:
            answers = call(channel, options.numbers)
            for number in options.numbers:
                print(f"{number} {answers[number]}", flush=True)


if __name__ == "__main__":
    main()
