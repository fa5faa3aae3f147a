"""Celery: a client in the module of the tasks, for all of them; each worker process begins anew with its limits.

    client = ThrottledOpenAI(shared="redis://broker:6379/0", rpm=5_000, max_wait=60)

    @app.task(acks_late=True, autoretry_for=(AdmissionTimeout,), retry_backoff=True, max_retries=None)
    def answer(question):
        return client.chat.completions.create(...)

A task that waits for admission occupies its worker process. With `max_wait` it goes back to the queue of Celery when
it has waited that long, and other tasks have their turn. Here two worker processes of one worker share the account;
where budgets are not shared between processes, each is given its part of the limit.
"""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from celery import Celery

from account import counted, options_of
from throttled_openai import AdmissionTimeout, ThrottledOpenAI
from throttled_openai.simulator import spawn

PROCESSES, CALLS, RPM = 2, 30, 600

FOLDER = os.environ.get("RECIPE_FOLDER", "")
app = Celery("answers", broker="filesystem://", backend=f"file://{FOLDER}")
app.conf.update(
    broker_transport_options={"data_folder_in": FOLDER, "data_folder_out": FOLDER, "control_folder": FOLDER},
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
)

client = ThrottledOpenAI(
    api_key="any", base_url=os.environ.get("RECIPE_URL"), max_wait=2, **options_of(rpm=RPM, processes=PROCESSES)
)


@app.task(name="answer", acks_late=True, autoretry_for=(AdmissionTimeout,), retry_backoff=True, max_retries=None)
def answer(question):
    completion = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": question}])
    return completion.choices[0].message.content, os.getpid()


def main():
    with tempfile.TemporaryDirectory() as folder, spawn(rpm=RPM, burst=1.0, latency=0.1, announce=False) as url:
        environment = {**os.environ, "RECIPE_FOLDER": folder, "RECIPE_URL": url}
        # Another process asks, as a web server would, so that this one knows neither folder nor server when it imports.
        subprocess.run([sys.executable, __file__, "ask"], env=environment, check=True)
        seen = counted(url)
    assert seen["succeeded"] == CALLS, seen
    assert seen["refused"] <= 2, seen


def ask():
    command = [sys.executable, "-m", "celery", "-A", "with_celery", "worker", "--pool=prefork", "--loglevel=ERROR"]
    options = [f"--concurrency={PROCESSES}", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = subprocess.Popen([*command, *options], cwd=Path(__file__).parent)
    overdue = threading.Timer(120, worker.kill)
    overdue.start()
    try:
        results = [answer.delay(f"What is {n} squared?") for n in range(CALLS)]
        answers = [result.get(timeout=120) for result in results]
    finally:
        overdue.cancel()
        worker.terminate()
        worker.wait()
    assert all(text for text, _ in answers)
    assert len({process for _, process in answers}) == PROCESSES, "both worker processes had a part"


if __name__ == "__main__":
    ask() if sys.argv[1:] == ["ask"] else main()
