"""Ray Data: `throttled_openai.batch.ray.ModelCalls` answers the rows of a dataset, in actors of a small local cluster.

A row that fails has its reason in the column `error`, and the job goes on. Two actors share the account; where budgets
are not shared between processes, each is given its part of the limit.

Ray is large (630 MB), so this one is only run by name: python tests/recipes/run.py ray
"""

import json
import os
import time

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_AUTH_MODE": "disabled"}

import ray

from account import counted, options_of
from throttled_openai.batch.ray import ModelCalls
from throttled_openai.simulator import spawn

ACTORS, CALLS, RPM = 2, 120, 600


def body(row):
    if row["id"] == 7:
        raise ValueError("a row without a question")
    model = "gpt-4o" if row["id"] != 8 else None
    return {"model": model, "messages": [{"role": "user", "content": f"What is {row['id']} squared?"}]}


def main():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    with spawn(rpm=RPM, burst=1.0, latency=0.1, announce=False) as url:
        started = time.monotonic()
        answered = ray.data.range(CALLS, override_num_blocks=8).map_batches(
            ModelCalls,
            fn_constructor_args=[body],
            fn_constructor_kwargs={"api_key": "any", "base_url": url, **options_of(rpm=RPM, processes=ACTORS)},
            batch_size=10,
            compute=ray.data.ActorPoolStrategy(size=ACTORS),
            num_cpus=0,
        )
        rows = answered.take_all()
        seconds = time.monotonic() - started
        seen = counted(url)
    failed = {row["id"]: row["error"] for row in rows if row["error"] is not None}
    assert sorted(row["id"] for row in rows) == list(range(CALLS))
    assert set(failed) == {7, 8}, failed
    assert failed[7] == "ValueError: a row without a question"
    assert failed[8].startswith("400"), failed
    assert all(json.loads(row["response"])["choices"] for row in rows if row["id"] not in failed)
    assert all(row["response"] is None for row in rows if row["id"] in failed)
    assert seen["succeeded"] == CALLS - 2, seen
    assert seen["refused"] <= 2, seen
    print(f"{CALLS} rows in {seconds:.1f} s, {seen['refused']} refused")
    ray.shutdown()


if __name__ == "__main__":
    main()
