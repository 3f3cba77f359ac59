"""Run the examples and keep what they print in examples/output/, from where the pages of the gallery include it.

`python scripts/gallery.py [NAME ...]`: those named, or all.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
OUTPUT = EXAMPLES / "output"


def printed(script: Path) -> str:
    """What an example prints, run in a folder of its own with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, str(script)],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if run.returncode:
        raise SystemExit(f"{script.name} failed:\n{run.stdout}")
    return "\n".join(line.rstrip() for line in run.stdout.splitlines()) + "\n"


def main() -> None:
    """Write the output of each example."""
    OUTPUT.mkdir(exist_ok=True)
    for script in sorted(EXAMPLES.glob("*.py")):
        if script.stem in sys.argv[1:] or len(sys.argv) == 1:
            print(script.stem, flush=True)
            (OUTPUT / f"{script.stem}.txt").write_text(printed(script), encoding="utf-8")


if __name__ == "__main__":
    main()
