"""What the SDK spends on the parameters of a call: as it is, with `fast_parameters()`, and with a patch of the SDK.

    python benchmarks/parameters.py

`upstream/transform.patch` is the same change as a patch for openai-python (`patch -p1` in its root). It is applied
to a copy of the installed SDK's file here. Microseconds in a hot loop, the least of five; the whole call is measured
by `throughput.py`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from openai._utils import _transform
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams

from throttled_openai import fast_parameters

PATCH = Path(__file__).with_name("upstream") / "transform.patch"
TURN = [{"role": "user", "content": "What is 2 squared?"}, {"role": "assistant", "content": "Four."}]
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "chat, 1 message": ({"model": "m", "messages": TURN[:1]}, CompletionCreateParamsNonStreaming),
    "chat, 20 messages": ({"model": "m", "messages": TURN * 10}, CompletionCreateParamsNonStreaming),
    "embeddings, 1,000 texts": ({"model": "m", "input": ["text"] * 1000}, EmbeddingCreateParams),
}


def patched() -> Any:
    """The SDK's module with the patch."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "src/openai/_utils/_transform.py")
        copy.parent.mkdir(parents=True)
        copy.write_text(Path(_transform.__file__).read_text())
        subprocess.run(["patch", "-p1", "-s", "-d", folder, "-i", PATCH], check=True)
        spec = importlib.util.spec_from_file_location("openai._utils._patched_transform", copy)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


async def microseconds(module: Any, data: dict[str, Any], type_: Any, count: int = 50) -> float:
    least = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(count):
            await module.async_maybe_transform(data, type_)
        least = min(least, (time.process_time() - began) / count * 1e6)
    return least


async def main() -> None:
    patch = patched()
    print(f"{'':26}{'SDK':>8}{'fast':>8}{'patch':>8}")
    for name, (data, type_) in CASES.items():
        plain = await microseconds(_transform, data, type_)
        fast_parameters()
        fast = await microseconds(_transform, data, type_)
        fast_parameters(False)
        assert await patch.async_maybe_transform(data, type_) == await _transform.async_maybe_transform(data, type_)
        print(f"{name:26}{plain:8.0f}{fast:8.1f}{await microseconds(patch, data, type_):8.1f}")


if __name__ == "__main__":
    asyncio.run(main())
