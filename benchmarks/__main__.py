"""`python -m benchmarks [NAME ...] [--option ...]`: the benchmarks named, or all, each in a process
of its own.

From the first option on, arguments are for the benchmark:
`python -m benchmarks recipe --bins DIR --shakespeare FILE`.
"""

import pkgutil
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run them one after the other; one that fails does not keep the others from running."""
    known = [
        module.name
        for module in pkgutil.iter_modules([str(Path(__file__).parent)])
        if module.name[0] != "_"
    ]
    first_option = next(
        (i for i, each in enumerate(sys.argv) if each.startswith("-")), len(sys.argv)
    )
    options = sys.argv[first_option:]
    chosen = sys.argv[1:first_option] or known
    unknown = set(chosen) - set(known)
    if unknown:
        print(
            f"no benchmark is named {', '.join(sorted(unknown))}; they are {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    failed = []
    for name in chosen:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options]).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


sys.exit(main())
