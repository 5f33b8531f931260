"""Counts how the package is built, read from its source: python -m tests.structure"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "keras_moco"
SOURCES = [*sorted((ROOT / PACKAGE).rglob("*.py")), ROOT / "train.py", ROOT / "evaluate.py"]

# The rooms of the package from the ground up. Each imports from those in the lines before its own, and no other.
# Those that come before `config` know nothing of settings, those before `networks` nothing of models.
FLOORS = """
errors former_names
storage checks
augment
data
config
command_line
distribution
layers optimizers trust
networks
methods
export
convert
runs
evaluation
callbacks
summaries
commands
keras_moco __main__ train evaluate
""".strip().splitlines()  # "keras_moco" is the package's own __init__.py
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}


def module_name(path):
    """`keras_moco/layers/__init__.py` is `keras_moco.layers`, `train.py` is `train`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    """The room that a module belongs to: `keras_moco.layers.feature_queue` to `layers`."""
    names = module.split(".")
    return names[1] if names[0] == PACKAGE and len(names) > 1 else names[0]


def imported_modules(source, module, is_package=False):
    """Full names of all that `source` imports, at the top or inside functions, and relative ones resolved.

    `import keras_moco` counts for what is then taken from it: `keras_moco.x` in `keras_moco.x.f()`.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name != PACKAGE)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == PACKAGE:
            yield f"{PACKAGE}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            # `from keras_moco import layers` names a room, `from keras_moco.layers import X` a class.
            yield from (f"{base}.{alias.name}" if base == PACKAGE else base for alias in node.names)


def imported_rooms(source, module, is_package=False):
    """The other rooms that `source` imports from, a list."""
    found = []
    for imported in imported_modules(source, module, is_package):
        if imported.split(".")[0] != PACKAGE or imported == f"{PACKAGE}.__version__":
            continue
        room = room_of(imported)
        room = room if room in FLOOR else PACKAGE  # a name of the package's own __init__.py
        if room != room_of(module) and room not in found:
            found.append(room)
    return found


def points_up(importer, imported):
    """Whether an import from a room to another one is against the order."""
    return FLOOR[imported] >= FLOOR[importer]


def arrows():
    """Which room imports from which: a set of pairs."""
    return {
        (room_of(module_name(path)), room)
        for path in SOURCES
        for room in imported_rooms(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")
    }


def circles():
    """Modules that import each other, at the top or inside functions, directly or through others: a list of sets."""
    known = {module_name(path): path for path in SOURCES}
    graph = {}
    for module, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = set()
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)):
            base = getattr(node, "module", None) or ""
            for name in (f"{base}.{alias.name}" if base else alias.name for alias in node.names):
                graph[module] |= {found for found in (name, base) if found in known and found != module}
                # What is taken from a module of that name needs the module alone, not the room around it.
                if name in known:
                    graph[module].discard(base)

    def reached(start):
        found, new = set(), {start}
        while new:
            new = set().union(*(graph[each] for each in new)) - found
            found |= new
        return found

    reach = {module: reached(module) for module in graph}
    return [group for group in {frozenset(b for b in reach[a] if a in reach[b]) for a in graph} if group]


def longest_function():
    """`(lines, name)` of the longest function, without its docstring."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                found.append((lines, f"{module_name(path)}.{node.name}"))
    return max(found)


def lines_of(paths):
    return {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}


def main():
    package, tests = lines_of(SOURCES), lines_of((ROOT / "tests").rglob("*.py"))
    longest = max(package, key=package.get)
    length, function = longest_function()
    found = arrows()
    rows = {
        "Python files at the root of the package": len(list((ROOT / PACKAGE).glob("*.py"))),
        "files": len(SOURCES),
        "rooms": len(FLOOR) - 2,  # without the two scripts
        "arrows between rooms": len(found),
        "arrows against the order": sum(points_up(*arrow) for arrow in found),
        "circles of files": len(circles()),
        "longest file": f"{package[longest]} lines, {longest.relative_to(ROOT)}",
        "longest function": f"{length} lines, {function}",
        "lines of the package": sum(package.values()),
        "lines of tests": sum(tests.values()),
    }
    print("| | |\n| --- | --- |")
    for name, value in rows.items():
        print(f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value} |")


if __name__ == "__main__":
    main()
