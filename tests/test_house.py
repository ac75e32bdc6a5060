"""The house rules: who may import whom, how long things get, and names that no library has."""

import ast
import graphlib
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = [
    "command",
    "viewer",
    "zoom",
    "results",
    "sd3",
    "plain_sr",
    "prompts",
    "int8",
    "checkpoints",
    "machine",
    "ram",
    "lora",
    "training",
]
COMMANDS = [
    "download_ckpt.py",
    "inference_coz.py",
    "make_viewer.py",
    "merge_runs.py",
    "quantize_model.py",
    "train_prompt_extractor.py",
]
TOP = [*COMMANDS, "osediff_sd3.py", "errors.py"]
MODULES = [ROOT / name for name in TOP] + [file for name in FOLDERS for file in (ROOT / name).glob("*.py")]

# What each folder may import of the others; `errors` everybody may. `command` may import everything.
ALLOWED = {
    "errors": set(),
    "checkpoints": set(),
    "machine": set(),
    "results": {"checkpoints", "machine"},
    "zoom": {"results", "machine"},
    "viewer": {"results", "machine", "zoom"},
    "lora": {"checkpoints"},
    "ram": {"checkpoints"},
    "plain_sr": {"checkpoints", "machine", "zoom"},
    "prompts": {"checkpoints", "machine", "lora", "ram", "zoom"},
    "sd3": {"checkpoints", "machine", "lora", "zoom"},
    "osediff_sd3": {"checkpoints", "sd3", "machine", "zoom"},
    "training": {"prompts", "checkpoints", "machine", "lora", "zoom", "results"},
    "int8": {"osediff_sd3", "sd3", "checkpoints", "machine", "lora", "zoom", "results"},
}
# Longer than 200 lines for a reason that its docstring gives: none yet, but for the one writer of the graph.
LONG_CLASSES: set[str] = set()


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level_imports(file: Path) -> Iterator[str]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_imports_go_one_way(file):
    here = name_of(file).split(".")[0]
    if here == "command" or f"{here}.py" in COMMANDS:
        return
    ours = {name.split(".")[0] for name in imports(file)} & (ALLOWED.keys() | {"command"})
    assert ours - ALLOWED[here] - {here, "errors"} == set()


def test_no_module_imports_itself_in_a_circle():
    known = {name_of(file) for file in MODULES}
    graph = {name_of(file): set(top_level_imports(file)) & known for file in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_in_a_paragraph_what_lives_there(folder):
    assert ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_no_module_is_longer_than_400_lines_and_no_class_than_200(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name not in LONG_CLASSES:
            assert (node.end_lineno or 0) - node.lineno < 200, node.name


def test_nothing_on_top_is_named_like_a_library():
    """Scripts put their folder first on sys.path: `ram` would hide a library of that name."""
    ours = {Path(name).stem for name in (*FOLDERS, *TOP)}
    libraries = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    assert not ours & libraries


@pytest.mark.parametrize(
    "module",
    [
        "zoom.settings",
        "command.options",
        "command.decide",
        "command.films",
        "command.check_up",
        "command.training_options",
        "sd3.spec",
    ],
)
def test_what_help_needs_imports_neither_pillow_nor_torch(module):
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        file = ROOT / (name.replace(".", "/") + ".py")
        if name in seen or not file.is_file():
            continue
        seen.add(name)
        waiting += top_level_imports(file)
    assert not {"PIL", "torch", "numpy"} & {
        name.split(".")[0]
        for known in seen
        for name in top_level_imports(ROOT / (known.replace(".", "/") + ".py"))
    }


# The extra packages of requirements-train.txt. Whoever zooms has none of them.
EXTRA = {"trl", "datasets", "matplotlib"}


def test_training_is_for_its_own_command_alone_and_takes_its_extras_inside_functions():
    own = {"train_prompt_extractor", "command.training_options"}
    for file in MODULES:
        name, imported = name_of(file), {one.split(".")[0] for one in imports(file)}
        if name.split(".")[0] != "training":
            assert "training" not in imported or name in own, name
            assert not EXTRA & imported, name
            assert "training_options" not in {one.split(".")[-1] for one in imports(file)} or name in own, (
                name
            )
        assert not EXTRA & {one.split(".")[0] for one in top_level_imports(file)}, name
