"""The rules of the house that a reader cannot see at a glance (CONTRIBUTING.md)."""

import ast
import inspect
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import mainstem
from mainstem.cli import VERBS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "mainstem"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CODE = sorted(p for folder in ("src", "tests", "scripts", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
TEXTS = [p for p in sorted(ROOT.iterdir()) if p.is_file() and not p.name.startswith(".")] + sorted((ROOT / "docs").rglob("*.md"))

FORBIDDEN_MODULES = {"pickle", "marshal", "dill", "cloudpickle", "joblib", "shelve"}
FORBIDDEN_NAMES = {"eval", "exec"}
FORBIDDEN_CALLS = {
    *("yaml.load", "yaml.full_load", "yaml.unsafe_load", "torch.load", "torch.save", "torch.hub.load", "numpy.load", "np.load"),
    *("os.system", "os.popen", "shutil.unpack_archive"),
}
FORBIDDEN_METHODS = {"extractall", "recv_pyobj", "send_pyobj", "to_pickle", "read_pickle"}
FORBIDDEN_ARGUMENTS = {"shell", "trust_remote_code", "allow_pickle"}
WRITING_METHODS = {
    "write_text",
    "write_bytes",
    "touch",
    "savetxt",
    "save_file",
    "tofile",
    "to_csv",
    "to_parquet",
    "symlink_to",
    "hardlink_to",
}
WRITING_CALLS = {
    *("os.open", "os.rename", "os.replace", "os.link", "os.symlink", "os.truncate", "np.save", "np.savez", "numpy.save"),
    *("shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move", "tempfile.mkstemp"),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_data_never_becomes_code(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not {n.partition(".")[0] for n in names} & FORBIDDEN_MODULES, f"line {node.lineno}"
    for call in calls(path):
        called = ast.unparse(call.func)
        assert called not in FORBIDDEN_NAMES | FORBIDDEN_CALLS, f"line {call.lineno}: {called}"
        assert called.rpartition(".")[2] not in FORBIDDEN_METHODS, f"line {call.lineno}: {called}"
        for keyword in call.keywords:
            safe = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            assert keyword.arg not in FORBIDDEN_ARGUMENTS or safe, f"line {call.lineno}: {keyword.arg}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name != "files.py" and p.parent.name != "testing"], ids=name_of)
def test_only_files_opens_for_writing(path):
    """But testing/, which damages files on purpose."""
    for call in calls(path):
        called = ast.unparse(call.func)
        owner, _, method = called.rpartition(".")
        if called == "open" or method == "open":
            modes = [
                ast.unparse(a) for a in [*call.args, *(k.value for k in call.keywords if k.arg == "mode")] if isinstance(a, ast.Constant)
            ]
            assert not any(re.fullmatch(r"'[rbt]*[wax+][rbt+]*'", mode) for mode in modes), f"line {call.lineno}: {ast.unparse(call)}"
        assert method not in WRITING_METHODS or owner == "files", f"line {call.lineno}: {called}"
        devnull = bool(call.args) and ast.unparse(call.args[0]) == "os.devnull"
        assert called not in WRITING_CALLS or devnull, f"line {call.lineno}: {called}"


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_files_and_classes_are_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 600
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            methods = [n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            assert len(methods) <= 15, f"class {node.name} has {len(methods)} methods"


def test_names_of_files():
    assert not [name_of(p) for p in CODE if re.search(r"util|helper|misc|common", p.stem)]
    twice = [name for name, n in Counter(p.name for p in (ROOT / "tests").rglob("test_*.py")).items() if n > 1]
    assert not twice, "pytest needs unique names of test files"


def test_public_surface():
    """What users build on; a change is one for them: `python tests/test_house.py > tests/surface.txt`, and a line in CHANGELOG.md."""
    expected = (Path(__file__).parent / "surface.txt").read_text(encoding="utf-8").splitlines()
    assert list(surface()) == expected


def surface() -> Iterator[str]:
    for name in sorted(mainstem.__all__):
        thing = getattr(mainstem, name)
        if inspect.isclass(thing):
            yield f"{name}{parameters(thing)}"
            members = {m: v for m, v in vars(thing).items() if not m.startswith("_")}
            for member, value in sorted({**dict.fromkeys(getattr(thing, "__annotations__", {})), **members}.items()):
                yield f"{name}.{member}{parameters(value) if inspect.isfunction(value) else ''}"
        else:
            yield f"{name}{parameters(thing)}"
    yield from (f"mainstem {verb}" for verb in VERBS)


def parameters(thing: object) -> str:
    assert callable(thing)
    signature = inspect.signature(thing)
    plain = [p.replace(annotation=p.empty) for name, p in signature.parameters.items() if name != "self"]
    return re.sub(r"<function <lambda>.*?>", "…", str(signature.replace(parameters=plain, return_annotation=signature.empty)))


def test_root_is_short():
    assert len((PACKAGE / "__init__.py").read_text(encoding="utf-8").splitlines()) < 40


def test_version_is_told_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == mainstem.__version__
    assert f"## {mainstem.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_repository_speaks_of_itself():
    """No path of one machine, no address of a package index."""
    folders = "|".join(("work", "root", "home", "mnt", "opt", "Users"))
    machine = re.compile(rf"(?<![\w.:/\])}}])/(?:{folders})/\w|pythonhosted|pypi\.org|index-url|find-links")
    found = [
        f"{name_of(p)}: {m[0]}" for p in [*CODE, *TEXTS] if p != Path(__file__) for m in machine.finditer(p.read_text(encoding="utf-8"))
    ]
    assert not found


if __name__ == "__main__":  # python tests/test_house.py > tests/surface.txt
    print(*surface(), sep="\n")
