"""The house has an order: a module imports, at its top, only from those above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import firstcue

SOURCE = Path(firstcue.__file__).parent

# a module imports only from those above it; the members of one line do not import each other
ORDER = [
    ["_progress", "_extras", "_importing", "_values", "_whole"],
    ["_allocator", "_blas", "planning"],
    ["_checks"],
    ["_rows"],
    ["batch", "_scatter", "linalg"],
    ["_drafts"],
    ["_procrustes"],
    ["moments", "bures"],
    ["shrinkage"],
    # closed forms: moments in, frozen value out
    ["probes"],
    ["erasure"],
    ["spurious"],
    # models over time
    ["pooling", "positions"],
    ["forward"],
    ["heads", "replacing", "code_length"],
    ["layers"],
    ["inside"],
    ["scrubbing"],
    ["_sklearn_files"],
    ["sklearn"],
    ["agreement"],
    ["training"],
    ["richness", "simplicity"],
    ["integrations"],
    ["sweeps"],
    # for people
    ["data", "finding"],
    ["models"],
    ["experiments", "shards"],
    ["auditing"],
    ["report"],
    ["demo", "doctor"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}

LAZY = {"sklearn", "scipy", "matplotlib", "pandas", "pyarrow", "PIL", "joblib", "jinja2", "rich"}
"""Libraries that cost more to import than most commands take: imported inside functions."""

ADAPTS = {"firstcue.sklearn": "sklearn"}
"""Modules whose classes are made of another library's, and which nothing else imports."""


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def home(module: str) -> str:
    """`erasure` for `firstcue.erasure.leace`."""
    return module.split(".")[1]


def name_of(path: Path) -> str:
    parts = ["firstcue", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported_at_the_top(path: Path) -> Iterator[str]:
    """Full names of the modules that are loaded when this one is."""
    waiting: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If | ast.Try | ast.With) and not is_for_type_checkers(node):
            waiting.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))


def own_imports(path: Path) -> set[str]:
    """The modules and packages directly below firstcue that this file loads."""
    found = {home(name) for name in imported_at_the_top(path) if name.startswith("firstcue.")}
    return found - {"__version__", home(name_of(path))}


def test_every_module_has_a_place_in_the_order():
    placeless = {home(name_of(path)) for path in modules()} - set(RANK)
    assert not placeless, f"give {sorted(placeless)} a place in ORDER, above everything that imports it"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_those_above_it(path):
    own = home(name_of(path))
    below = sorted(name for name in own_imports(path) if name in RANK and RANK[name] >= RANK[own])
    assert not below, f"{name_of(path)} imports {below}, which stand beside or below it; move the import or the code"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_heavy_libraries_are_imported_inside_functions(path):
    heavy = sorted({name.split(".")[0] for name in imported_at_the_top(path)} & LAZY - {ADAPTS.get(name_of(path))})
    assert not heavy, f"{name_of(path)} imports {heavy} at its top; import inside the function that uses it"


def test_no_two_modules_of_a_package_import_each_other_in_a_circle():
    graph = {name_of(path): set(imported_at_the_top(path)) for path in modules()}
    links = {
        name: {
            other for other in graph if other != name and any(i == other or i.startswith(other + ".") for i in named)
        }
        for name, named in graph.items()
    }
    packages = {name_of(path) for path in modules() if path.name == "__init__.py"}
    while links:
        free = [name for name, needs in links.items() if not (needs - packages) & set(links)]
        assert free, f"these import each other in a circle: {sorted(links)}"
        links = {name: needs for name, needs in links.items() if name not in free}


def test_no_module_bears_the_name_of_a_public_function():
    below = {home(name_of(path)) for path in modules()}
    assert not below & set(firstcue._HOME)


def test_the_picture_of_the_architecture_is_that_of_the_imports():
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = [line.split("    ")[0].split() for line in page.split("```")[1].splitlines()[1:] if line.strip()]
    assert [sorted(names) for names in drawn] == [sorted(names) for names in ORDER]
