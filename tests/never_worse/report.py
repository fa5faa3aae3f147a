"""The report: every cell that breaks the promise, by kind, with both sides."""

import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .calls import LOADS
from .cells import grid
from .promise import breaches
from .run import run


def tried(cell):
    """Run both sides: what breaks the promise, and what each did."""
    stock = run(cell, ours=False)
    ours = run(cell, ours=True)
    return cell, breaches(cell, stock, ours), str(stock), str(ours), stock.cpu, ours.cpu


def main(parser):
    parser.add_argument("--cells", type=int, default=400, help="cells chosen for their pairs (default 400)")
    parser.add_argument("--seed", type=int, default=1, help="of that choice (default 1)")
    parser.add_argument("--only", default="", help="only cells whose description contains this")
    parser.add_argument("--load", choices=LOADS, default="gathered", help="of the listed cells (default gathered)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--output", type=Path, help="write the report there too")
    parser.add_argument("--full", action="store_true", help="all cells of a kind, not ten")
    options = parser.parse_args()
    cells = [cell for cell in grid(options.cells, options.seed, options.load) if options.only in str(cell)]
    began = time.perf_counter()
    results = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for result in pool.map(tried, cells, chunksize=4) if options.jobs > 1 else map(tried, cells):
            results.append(result)
            if options.output and len(results) % 25 == 0:
                options.output.write_text(report(results, options))
    text = report(results, options) + f"\n{time.perf_counter() - began:.0f} s\n"
    sys.stdout.write(text)
    if options.output:
        options.output.write_text(text)
    return any(broken for _, broken, *_ in results)


def report(results, options):
    failing = [result for result in results if result[1]]
    cpu = sum(result[4] for result in results), sum(result[5] for result in results)
    lines = [
        f"# {len(failing)} of {len(results)} cells break the promise (seed {options.seed}, --cells {options.cells})",
        "",
        f"CPU: stock {cpu[0]:.1f} s, ours {cpu[1]:.1f} s.",
        "",
    ]
    groups = defaultdict(list)
    for cell, broken, stock, ours, *_ in failing:
        for breach in broken:
            groups[breach.kind].append((cell, breach, stock, ours))
    for kind, found in sorted(groups.items(), key=lambda item: -len(item[1])):
        lines += [f"## {kind}: {len(found)} cells", ""]
        for name in ("kind", "body", "header", "timing", "limit", "announced", "load", "way", "seam"):
            counts = Counter(getattr(cell, name) for cell, *_ in found).most_common(6)
            lines.append(f"- {name}: " + ", ".join(f"{value} {count}" for value, count in counts))
        lines.append("")
        for cell, breach, stock, ours in found if options.full else found[:12]:
            lines += [f"- `{cell}`", f"  - {breach.sentence}", f"  - stock: {stock}", f"  - ours: {ours}"]
        lines.append("")
    return "\n".join(lines)
