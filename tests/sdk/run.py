"""The SDK's own tests of its clients, with ours in place of theirs: an optional job, which takes some minutes.

    python tests/sdk/run.py                       # the tests of the client, of the newest SDK
    python tests/sdk/run.py --version 2.47.0      # of another
    python tests/sdk/run.py --all                 # every test file that knows AsyncOpenAI (20 minutes)

Downloads openai's source distribution, makes an environment with it and what its tests need, and runs them
twice: as they are, and with `ThrottledAsyncOpenAI` and `ThrottledAsyncAzureOpenAI` under the SDK's names
(`swap.py`). What passes as it is and fails with ours is a deviation. Exits with 1 if there is one that
`DEVIATIONS` does not explain. Tests that need OpenAI's mock server (`api_resources`) are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CLIENT = [
    "tests/test_client.py", "tests/test_httpx2.py", "tests/test_response.py", "tests/test_streaming.py",
    "tests/test_auth.py", "tests/test_httpx_compat.py", "tests/test_legacy_response.py", "tests/test_module_client.py",
    "tests/lib/test_azure.py", "tests/lib/test_azure_auth.py",
]  # fmt: skip
# What the SDKs of 2.47 to 3.x need for their tests.
NEEDS = [
    "pytest", "pytest-asyncio", "pytest-xdist", "respx", "time-machine", "dirty-equals", "inline-snapshot",
    "nest_asyncio", "trio", "rich", "importlib-metadata", "botocore", "azure-identity", "websockets", "numpy",
]  # fmt: skip
# Why a test that fails with ours is right to, by the end of its name.
DEVIATIONS: dict[str, str] = {}


def run(*command: str | Path, **options: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


def make(folder: Path, version: str | None) -> tuple[Path, Path]:
    """The environment's Python and the unpacked distribution."""
    python = folder / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", folder)
    openai = f"openai=={version}" if version else "openai"
    run(python, "-m", "pip", "install", "-q", "-U", "pip")
    run(python, "-m", "pip", "install", "-q", "-e", ROOT, f"{openai.replace('openai', 'openai[aiohttp]', 1)}", *NEEDS)
    found = subprocess.check_output([python, "-c", "import openai; print(openai.__version__)"], text=True).strip()
    source = folder / f"openai-{found}"
    if not source.exists():
        download = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "openai", "-d", folder]
        run(*download, f"openai=={found}")
        with tarfile.open(folder / f"openai-{found}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    for shadow in (source / "src", source / "tests" / "api_resources", source / "tests" / "compat"):
        if shadow.exists():
            shadow.rename(shadow.with_name(f"{shadow.name}.left_out"))
    return python, source


def outcomes(python: Path, source: Path, files: list[str], *, ours: bool) -> dict[str, str]:
    """What became of each test."""
    told = source / f"outcomes-{'ours' if ours else 'stock'}.jsonl"
    told.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(HERE), "TOLD": str(told), "OURS": "1" * ours}
    for variable in list(environment):
        if variable.startswith(("OPENAI_", "AZURE_OPENAI_")):
            del environment[variable]

    def test(file: str) -> None:
        subprocess.run(
            [python, "-m", "pytest", "-q", "-n0", "-p", "swap", "-p", "no:cacheprovider", file],
            cwd=source, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=900,
        )  # fmt: skip

    # File by file: in some releases a warning that is an error ends the whole run.
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        list(workers.map(test, files))
    lines = told.read_text().splitlines() if told.exists() else []
    return dict(json.loads(line) for line in lines)


def files_of(source: Path, *, everything: bool) -> list[str]:
    if not everything:
        return [file for file in CLIENT if (source / file).exists()]
    knows = re.compile(r"AsyncOpenAI|AsyncAzureOpenAI|async_client")
    files = sorted((source / "tests").rglob("test_*.py"))
    return [
        str(file.relative_to(source))
        for file in files
        if "left_out" not in str(file) and knows.search(file.read_text(encoding="utf-8"))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", help="of the SDK; the newest where left out")
    parser.add_argument("--all", action="store_true", help="every test file that knows the async client")
    parser.add_argument("--folder", type=Path, help="of the environment; kept for the next time")
    arguments = parser.parse_args()
    folder = (arguments.folder or ROOT / f".venv-sdk-{arguments.version or 'newest'}").resolve()
    python, source = make(folder, arguments.version)
    files = files_of(source, everything=arguments.all)
    stock, ours = (outcomes(python, source, files, ours=which) for which in (False, True))
    passed = [name for name, outcome in stock.items() if outcome == "passed"]
    failed = [name for name in passed if ours.get(name) != "passed"]
    unexplained = []
    for name in failed:
        why = next((why for end, why in DEVIATIONS.items() if name.endswith(end)), None)
        print(f"    {name}: {ours.get(name, 'did not run')}; {why or 'NOT EXPLAINED'}")
        if why is None:
            unexplained.append(name)
    print(
        f"{source.name}, {len(files)} files: {len(passed)} of {len(stock)} tests pass as they are, "
        f"{len(passed) - len(failed)} of those with ours; {len(unexplained)} deviations unexplained"
    )
    return 1 if unexplained or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
