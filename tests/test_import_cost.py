"""Help and `import firstcue` answer at once: nothing heavy is loaded before somebody computes."""

import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "numpy", "sklearn", "scipy", "matplotlib", "pydantic", "rich", "PIL", "pandas"]


def loaded_after(code: str) -> list[str]:
    """Which heavy libraries a fresh interpreter holds after running `code`."""
    script = f"import sys, json\n{code}\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def cpu_seconds(*words: str) -> float:
    """User and system time of one `python ...`; the best of three, since other work on the machine only adds."""
    measure = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime)"
    )
    command = [sys.executable, "-c", measure, *words]
    return min(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3))


@pytest.mark.parametrize("words", [["--help"], ["audit", "--help"], ["fix", "erase", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(words):
    loaded = loaded_after(f"from firstcue.cli import main\nmain({words!r})")
    assert set(loaded) <= {"pydantic"}  # typer's own choice for commands with options


def test_importing_firstcue_loads_nothing_heavy():
    assert loaded_after("import firstcue") == []


def test_help_takes_less_than_a_third_of_a_cpu_second():
    assert cpu_seconds("-m", "firstcue", "--help") < 0.35


def test_importing_firstcue_takes_less_than_a_fifth_of_a_cpu_second():
    assert cpu_seconds("-c", "import firstcue") < 0.2
