"""Claim: `firstcue --help` answers in less than 0.35 CPU seconds and `import firstcue` in less than 0.2.

False if the median of nine fresh processes is above. The rival is an interpreter that does nothing.
"""

import resource
import statistics
import subprocess
import sys

LIMITS = {"-c pass": None, "-c 'import firstcue'": 0.2, "-m firstcue --help": 0.35, "-m firstcue audit --help": 0.35}
WORDS = {
    "-c pass": ["-c", "pass"],
    "-c 'import firstcue'": ["-c", "import firstcue"],
    "-m firstcue --help": ["-m", "firstcue", "--help"],
    "-m firstcue audit --help": ["-m", "firstcue", "audit", "--help"],
}


def cpu_seconds(words: list[str]) -> float:
    """User and system time of one fresh interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Print median, spread and limit per command; 1 if a limit is broken."""
    broken = 0
    print(f"{'python ...':28} {'median s':>9} {'min':>6} {'max':>6} {'limit':>6}")
    for name, limit in LIMITS.items():
        cpu_seconds(WORDS[name])
        runs = [cpu_seconds(WORDS[name]) for _ in range(9)]
        median = statistics.median(runs)
        broken += limit is not None and median > limit
        print(f"{name:28} {median:9.3f} {min(runs):6.3f} {max(runs):6.3f} {limit or '':>6}")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
