"""Run every benchmark beside this file, one after the other, each in a process of its own with one thread."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def main() -> int:
    """`run.py [NAME ...]`: the names given, or all; 1 if any claim is false."""
    wanted = [HERE / f"{name.removesuffix('.py')}.py" for name in sys.argv[1:]]
    scripts = wanted or sorted(p for p in HERE.glob("*.py") if p.name != "run.py" and not p.name.startswith("_"))
    codes = {}
    for script in scripts:
        print(f"\n== {script.stem}", flush=True)
        codes[script.stem] = subprocess.run([sys.executable, str(script)], env=os.environ | ONE_THREAD).returncode
    false = [name for name, code in codes.items() if code]
    print(
        f"\n{len(codes) - len(false)} of {len(codes)} benchmarks hold"
        + (f"; not: {', '.join(false)}" if false else ".")
    )
    return int(bool(false))


if __name__ == "__main__":
    sys.exit(main())
