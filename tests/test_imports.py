"""Who may import whom (the table of ARCHITECTURE.md), by static imports; and what a cold start must not load."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mainstem

PACKAGE = Path(mainstem.__file__).parent

GROUND = {"choices", "errors", "files", "contracts", "registry", "schema"}
RUNNING = GROUND | {"artifact", "modalities", "tasks", "runtimes", "inference"}
MEASURING = RUNNING | {"evaluation", "seal"}
ALL = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p.is_dir() and p.name != "__pycache__")}

# part: (may import at module level, and besides inside functions); every part may import itself
TABLE: dict[str, tuple[set[str], set[str]]] = {
    "choices": (set(), set()),
    "errors": (set(), set()),
    "files": ({"errors"}, set()),
    "contracts": ({"errors"}, set()),
    "registry": ({"errors", "contracts"}, set()),
    "schema": ({"errors", "contracts", "registry"}, set()),
    "config": (GROUND, set()),
    "artifact": (GROUND, set()),
    "data": (GROUND, set()),
    "modalities": (GROUND, set()),
    "testing": (GROUND, ALL - {"cli"}),
    "nn": (GROUND | {"artifact"}, set()),  # reads adapters as serving does
    "tasks": (GROUND | {"modalities"}, {"nn"}),
    "pretrained": (GROUND, set()),
    "backbones": (GROUND | {"modalities", "pretrained"}, {"nn"}),
    "objectives": (GROUND | {"modalities", "backbones", "data"}, {"nn"}),
    "runtimes": (GROUND | {"artifact"}, set()),
    "inference": (RUNNING - {"inference"}, set()),
    "evaluation": (RUNNING, set()),
    "seal": (RUNNING | {"evaluation"}, set()),
    "network": (GROUND | {"artifact", "tasks", "backbones", "nn"}, set()),
    "training": (MEASURING | {"data", "config"}, {"network"}),
    "compress": (MEASURING, set()),
    "serve": (MEASURING, {"data"}),  # an uploaded file is read as any file
    "api": (GROUND | {"artifact"}, ALL - {"cli", "network", "nn"}),
    "sklearn": (GROUND | {"modalities"}, {"api", "data", "seal", "training"}),
    "client": ({"errors"}, {"data"}),  # rows are read as anywhere
    "cli": ({"errors", "api", "registry", "contracts"}, ALL - {"network", "nn"}),
    "__init__": (set(), {"api", "client", "errors"}),
    "__main__": ({"cli"}, set()),
}

# libraries that cost seconds or come with an extra: never at module level, but in the files named here
HEAVY = {
    *("torch", "torchvision", "transformers", "timm", "peft", "huggingface_hub", "tensorboard"),
    *("sklearn", "scipy", "pandas", "pyarrow", "openpyxl", "onnx", "matplotlib"),
}
TORCH_AT_ONCE = {"nn", "network", "runtimes/torch.py"} | {
    f"training/{name}.py" for name in ("engine", "estimate", "loop", "muon", "optimisers", "randomness", "ranges", "tensors")
}
TORCH_INSIDE = {"tasks", "objectives", "backbones", "runtimes", "nn", "network", "training"}

FILES = sorted(p for p in PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it stands inside a function) of each import; those for type checkers only are left out."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: imports are absolute"
                yield from ((f"{child.module}.{alias.name}", inside) for alias in child.names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            else:
                yield from walk(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    return walk(ast.parse(path.read_text(encoding="utf-8")), False)


def imported_part(name: str) -> str:
    """The part of mainstem that a dotted name leads to, "" for other packages."""
    root, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    return "" if root != "mainstem" else first if first in ALL else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_table(path):
    part = part_of(path)
    assert part in TABLE, f"give '{part}' a line in the table"
    at_once, inside = TABLE[part]
    wrong = []
    for name, deferred in imports(path):
        other = imported_part(name)
        if other and other not in {part, "__init__"} | at_once | (inside if deferred else set()):
            wrong.append(f"{name}{' inside a function' if deferred else ''}")
    assert not wrong, f"{part} may not import {wrong}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_heavy_libraries_are_imported_where_they_are_used(path):
    part, place = part_of(path), path.relative_to(PACKAGE).as_posix()
    for name, deferred in imports(path):
        library = name.partition(".")[0] if name != "safetensors.torch" else "torch"
        if library not in HEAVY:
            continue
        if library == "torch":
            assert {part, place} & (TORCH_INSIDE if deferred else TORCH_AT_ONCE), f"{place} imports {name}"
        else:
            assert deferred or place == "sklearn.py", f"{place} imports {name} at module level"  # whose users have it


def test_every_line_of_the_table_is_a_part():
    assert set(TABLE) == ALL


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh process holds after `code`."""
    ending = "\nimport json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules if sys.modules[m] is not None})))"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_nothing_heavy():
    assert not loaded("import mainstem") & (HEAVY | {"numpy", "onnxruntime", "pydantic", "typer", "rich", "starlette"})


def test_help_loads_nothing_heavy():
    assert not loaded("from mainstem.cli import main; main(['--help'])") & (HEAVY | {"numpy", "onnxruntime", "pydantic"})


def test_help_of_each_verb_loads_no_workshop():
    code = "from mainstem.cli import VERBS, main\nfor verb in VERBS: assert main([verb, '--help']) == 0"
    assert not loaded(code) & HEAVY


def test_what_serves_loads_no_workshop():
    """All modules of the parts that run in the base install, in one process."""
    parts = MEASURING | {"serve", "api", "config", "data"}
    names = [p.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".") for p in FILES if part_of(p) in parts]
    code = "\n".join(f"import {name.removesuffix('.__init__')}" for name in names if not name.endswith("runtimes.torch"))
    assert not loaded(code) & HEAVY


def test_the_runtime_reports_nothing_to_its_makers(tmp_path):
    """Its reports begin with a file of ids, when it is first imported."""
    program = "import mainstem.runtimes.onnx; import onnxruntime; onnxruntime.SessionOptions()"
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}  # CI would silence it too
    subprocess.run([sys.executable, "-c", program], env=kept | places, check=True)
    assert list(tmp_path.rglob("*")) == []
    subprocess.run([sys.executable, "-c", program], env=kept | places | {"ORT_DISABLE_TELEMETRY": "0"}, check=True)
    assert list(tmp_path.rglob("*")) != []  # whoever wants it can have it
