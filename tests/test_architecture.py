"""What holds for the whole repository: who may import whom, what is public, and what no file may hold."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "vivim": ROOT / "vivim",
    "vivim_runtime": ROOT / "runtime" / "vivim_runtime",
    "vivim_export": ROOT / "export" / "vivim_export",
    "vivim_calibration": ROOT / "calibration" / "vivim_calibration",
}

# Which of our packages each one may import, besides itself.
OURS_ALLOWED = {
    "vivim": {"vivim_runtime"},
    "vivim_runtime": set(),
    "vivim_export": {"vivim", "vivim_runtime"},
    "vivim_calibration": {"vivim_runtime"},
}
# What no part of a package may import, not even within a function.
FORBIDDEN = {
    "vivim": {"onnx", "onnxscript", "onnxruntime"},  # the extra `train` installs none of them
    "vivim_runtime": {"torch", "safetensors", "onnx", "onnxscript"},  # a Jetson has none of them
    "vivim_export": set(),
    "vivim_calibration": set(),
}
# Extras of the runtime, and Pillow: imported only within the function that needs them.
LATE = {
    "vivim_runtime": {"onnxruntime", "ray", "pydicom", "highdicom", "PIL", "pygame", "tensorrt", "tensorrt_rtx", "cuda"}
}

# The floors of a package, from the ground up: a room may use the rooms before it and none behind it. Rooms on one line
# of the drawing stand in the order in which they need each other.
FLOORS = {
    "vivim_runtime": (
        "installation errors interrupts text regions measuring texture confidence gating contract framing provenance "
        "sizes "
        "files signing manifest svg phantom finding sessions sources locating continuity overlay clips sinks "
        "smoothing offline archive cluster datasets bench judging live doctor commands entry __main__"
    ),
    "vivim": (
        "config scan segformer rivals mamba streaming model conversion pickled checkpoint preprocessing session "
        "training efficiency commands cli"
    ),
    "vivim_export": (
        "functions rules folding channels_last cpu_graph precision lowering s6 engine_graph precision_check emulation "
        "runners streaming onnx_export cached foreign engine triton commands"
    ),
    "vivim_calibration": (
        "clips histogram layers float_model quantise calibration verdict sensitivity choosing plot procedure report "
        "commands"
    ),
}


@dataclass(frozen=True)
class Import:
    """A module that a file imports, and whether that happens as soon as the file itself is imported."""

    where: str
    module: str
    at_once: bool

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]


def modules(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


ALL_MODULES = [pytest.param(name, path, id=relative(path)) for name in PACKAGES for path in modules(name)]


def dotted(package: str, path: Path) -> str:
    """The import name of a module's file."""
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join((package, *parts)).removesuffix(".__init__")


def checks_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_by_name(node: ast.Call) -> bool:
    literal = bool(node.args) and isinstance(node.args[0], ast.Constant)
    return literal and ast.unparse(node.func).endswith(("import_module", "__import__"))


def imports(tree: ast.AST, where: str, at_once: bool = True) -> Iterator[Import]:
    """Every import below a node, `importlib.import_module("name")` with a literal name included."""
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or checks_types_only(node)
        line = f"{where}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from (Import(line, alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield Import(line, "." * node.level + (node.module or ""), at_once)
        elif isinstance(node, ast.Call) and imports_by_name(node):
            yield Import(line, ast.literal_eval(node.args[0]), at_once)
        yield from imports(node, where, at_once and not later)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path: Path) -> list[Import]:
    return list(imports(parsed(path), relative(path)))


def public_names(package: str, path: Path) -> set[str]:
    """Names without an underscore that a module defines, or that an `__init__` takes from its own package."""
    names: set[str] = set()
    for node in parsed(path).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            names |= {part.id for part in parts if isinstance(part.ctx, ast.Store)}
        elif isinstance(node, ast.ImportFrom) and path.name == "__init__.py":
            own = (node.module or "").partition(".")[0] == package
            names |= {alias.asname or alias.name for alias in node.names if own}
    return {name for name in names if not name.startswith("_")}


def in_another_process(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter, in which the four packages can be imported."""
    folders = [str(path.parent) for path in PACKAGES.values()]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", ["import torch", "def f():\n    from torch import nn", "import_module('torch.nn')"])
def test_an_import_is_found_wherever_it_hides(code: str) -> None:
    assert [(found.root, found.at_once) for found in imports(ast.parse(code), "x")] == [("torch", "def" not in code)]


@pytest.mark.parametrize(("package", "path"), ALL_MODULES)
def test_imports_go_one_way(package: str, path: Path) -> None:
    foreign = (set(PACKAGES) - OURS_ALLOWED[package] - {package}) | FORBIDDEN[package]
    found = imports_of(path)
    assert [f"{i.where} imports {i.module}" for i in found if i.root in foreign] == []
    late = LATE.get(package, set())
    assert [f"{i.where} imports {i.module} at once" for i in found if i.root in late and i.at_once] == []
    # A relative import would hide its package from this test.
    assert [i.where for i in found if i.module.startswith(".")] == []


def test_runtime_imports_none_of_its_extras_until_they_are_needed() -> None:
    names = [dotted("vivim_runtime", path) for path in modules("vivim_runtime")]
    assert len(names) > 8
    heavy = [
        "torch",
        "safetensors",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "pydicom",
        "PIL",
        "pygame",
        "vivim",
        "vivim_export",
    ]
    code = (
        "import importlib, json, sys\n"
        "names, heavy = map(json.loads, sys.argv[1:])\n"
        "for name in names: importlib.import_module(name)\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    assert json.loads(in_another_process(code, json.dumps(names), json.dumps(heavy))) == []


@functools.cache
def imported_modules() -> dict[str, set[str]]:
    """Every module of ours, and those of ours that it imports, late imports and names of modules included."""
    files = {dotted(package, path): path for package in PACKAGES for path in modules(package)}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        found: set[str] = set()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                # `from package import module` means the module, `from package import name` the package.
                found |= {
                    inner if (inner := f"{node.module}.{alias.name}") in files else node.module for alias in node.names
                }
        graph[name] = found & files.keys()
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for module in graph[waiting.pop()] - seen:
                seen.add(module)
                waiting.append(module)
        return seen

    reach = {module: reached(module) for module in graph}
    groups = {frozenset(other for other in reach[m] if m in reach[other]) for m in graph if m in reach[m]}
    return sorted(sorted(group) for group in groups)


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(imported_modules()) == []


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_stand_on_those_below_them(package: str) -> None:
    floor = {room: number for number, room in enumerate(FLOORS[package].split())}

    def room(module: str) -> str:
        return module.split(".")[1] if "." in module else ""

    graph = {module: found for module, found in imported_modules().items() if module.split(".")[0] == package}
    rooms = {room(module) for module in graph} - {""}
    assert rooms == set(floor), "a room is not on the list of floors, or is gone"
    above = [
        f"{module} imports {other}"
        for module, found in sorted(graph.items())
        for other in sorted(found)
        if other.split(".")[0] == package and room(module) and room(other)
        if floor[room(other)] > floor[room(module)]
    ]
    assert above == []


@pytest.mark.parametrize(("package", "path"), ALL_MODULES)
def test_only_commands_import_typer(package: str, path: Path) -> None:
    is_command = "commands" in path.relative_to(PACKAGES[package]).with_suffix("").parts
    found = [i.where for i in imports_of(path) if i.root in ("typer", "click")]
    assert is_command or found == []


def test_only_one_file_draws_the_tree_of_errors() -> None:
    """One root and one `UsageError`: a class of exceptions of another module belongs to the tree, or is private."""
    defined = {
        (node.name, relative(path))
        for package in PACKAGES
        for path in modules(package)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and not node.name.startswith("_")
    }
    elsewhere = {name for name, path in defined if path != "runtime/vivim_runtime/errors.py"}
    assert elsewhere <= {"EndedError"}  # of a process that is being measured; under the same root


@pytest.mark.parametrize(("package", "path"), ALL_MODULES)
def test_public_names_are_announced(package: str, path: Path) -> None:
    tree = parsed(path)
    announced = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    public = public_names(package, path)
    assert len(announced) == (1 if public else 0), f"{relative(path)} defines {sorted(public)}"
    for names in announced:
        assert len(set(names)) == len(names), "a name is listed twice"


def test_every_announced_name_exists() -> None:
    names = [dotted(package, path) for package in PACKAGES for path in modules(package)]
    loaded = [importlib.import_module(name) for name in names]
    listed = [(module, name) for module in loaded for name in getattr(module, "__all__", [])]
    assert [f"{module.__name__}.{name}" for module, name in listed if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_tell_type_checkers_that_they_are_typed(package: str) -> None:
    assert (PACKAGES[package] / "py.typed").is_file()
    assert (PACKAGES[package] / "__init__.py").is_file()


def tracked_files() -> list[Path]:
    """The files that git tracks and that are there; the test is skipped outside a checkout."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, cwd=ROOT, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


# In pieces, so that this file does not hold them itself.
MACHINE_BOUND = {
    "the host of a package registry": [
        f"{name}.org" for name in ("py" + "pi", "python" + "hosted", "download.py" + "torch", "ana" + "conda")
    ],
    "a path of one machine": ["/wor" + "k/", "/ro" + "ot/", "file" + "://"],
}


@pytest.mark.parametrize("what", MACHINE_BOUND)
def test_no_tracked_file_is_bound_to_a_machine(what: str) -> None:
    found = [
        f"{relative(path)} holds {pattern}"
        for path in tracked_files()
        for content in [path.read_bytes()]  # weights too: their metadata says with which command they were made
        for pattern in MACHINE_BOUND[what]
        if pattern.encode() in content
    ]
    assert found == []
