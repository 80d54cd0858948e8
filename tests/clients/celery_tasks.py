"""Tasks for the workers of test_celery.py.

python -m celery -A celery_tasks worker, with AMQP_URL and RESULTS (rpc:// or file:///FOLDER) in the
environment.
"""

import os
import signal
import time

from celery import Celery, Task
from kombu import Queue

app = Celery(broker=os.environ["AMQP_URL"], backend=os.environ["RESULTS"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_default_queue="tasks",
    task_queues=[Queue("tasks"), Queue("urgent", max_priority=9)],
    worker_cancel_long_running_tasks_on_connection_loss=True,
    worker_prefetch_multiplier=1,
)


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def now() -> float:
    return time.time()


@app.task(bind=True, max_retries=3)
def fail_twice(self: Task) -> int:
    """How often it was retried when it went well at last."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.05)
    return self.request.retries


@app.task(bind=True)
def kill_its_first_worker(self: Task) -> str:
    """Who has done it at last."""
    if not self.request.delivery_info["redelivered"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return self.request.hostname
