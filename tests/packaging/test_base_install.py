"""The wheel in an empty environment: models made by the workshop predict without PyTorch, and tables train there with [tables]."""

import base64
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mainstem as ms
from mainstem.data import examples
from mainstem.seal import as_prediction

ROOT = Path(__file__).parent.parent.parent
PREDICT = """
import json, sys
import mainstem as ms
answers = {}
for name, (folder, rows) in json.load(open(sys.argv[1])).items():
    model = ms.load(folder)
    model.verify()
    answers[name] = model.predict(rows)
assert "torch" not in sys.modules
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src" / "mainstem", source / "src" / "mainstem", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(tmp_path_factory, wheel):
    """The interpreter of an empty environment with the base installed."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    install(folder / "bin" / "python", str(wheel))
    return folder / "bin" / "python"


def install(python: Path, *wanted: str) -> None:
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "-c", str(ROOT / "constraints.txt"), *wanted)


def run(*command: str, cwd: Path | None = None) -> str:
    """What a command prints; it sees nothing of this environment."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=kept, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def megabytes(python: Path) -> float:
    """Size of all that is installed beside an interpreter."""
    packages = next((python.parent.parent / "lib").glob("python3*/site-packages"))
    return sum(p.stat().st_size for p in packages.rglob("*") if p.is_file()) / 1e6


def is_there(python: Path, *modules: str) -> list[str]:
    found = f"import importlib.util, json; print(json.dumps([m for m in {modules!r} if importlib.util.find_spec(m)]))"
    return list(json.loads(run(str(python), "-c", found)))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model folder of each kind, with rows to ask it for: (folder, rows)."""
    work = tmp_path_factory.mktemp("models")
    table, texts = work / "table.csv", work / "reviews.csv"
    examples.write("table", work)
    examples.write("reviews", work)
    pictures = work / "pictures"
    squares(pictures)
    flats = [{"area": 60.5, "rooms": 3, "floor": 2, "district": "harbour", "heating": "gas", "built": None, "listed": "2024-05-01"}]
    labels = [
        {"a": x / 40, "b": (7 * x % 40) / 40, "what": "big|odd" if x > 20 and x % 2 else "big" if x > 20 else "odd"} for x in range(40)
    ] * 4
    columns = list(flats[0])
    made = {
        "linear": (ms.train(table, "rent", backbone="linear", input=columns, out=work / "linear"), flats),
        "trees": (ms.train(table, "rent", backbone="trees", input=columns, out=work / "trees"), flats),
        "mlp": (ms.train(table, "rent", backbone="mlp", input=columns, epochs=2, out=work / "mlp"), flats),
        "ngram": (ms.train(texts, "label", backbone="ngram", epochs=2, out=work / "ngram"), [{"text": "一点也不差"}, {"text": "fine"}]),
        "cnn": (
            ms.train(pictures, "label", backbone="cnn", epochs=1, out=work / "cnn"),
            [{"image": "data:image/png;base64," + base64.b64encode(next(pictures.glob("dark/*.png")).read_bytes()).decode()}],
        ),
        "labels": (
            ms.train(labels, "what", backbone="linear", separator="|", allow_leak=True, out=work / "labels"),
            [{"a": 0.9, "b": 0.1}],
        ),
    }
    return {name: (run.model, rows) for name, (run, rows) in made.items()}


def squares(folder: Path) -> None:
    """60 noisy pictures of two classes."""
    rng = np.random.default_rng(0)
    for name, mean in (("dark", 60), ("light", 190)):
        (folder / name).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(rng.normal(mean, 30, (20, 24)).clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")


def test_base_is_small_and_has_no_workshop(python):
    assert is_there(python, "torch", "pandas", "sklearn", "pyarrow", "onnx", "transformers", "matplotlib") == []
    assert megabytes(python) < 300
    run(str(python.parent / "mainstem"), "--help")


def test_models_of_each_kind_predict_without_torch(python, models, tmp_path):
    asked = {name: (str(model.path), rows) for name, (model, rows) in models.items()}
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    answers = json.loads(run(str(python), "-c", PREDICT, str(tmp_path / "asked.json")).splitlines()[-1])
    for name, (model, rows) in models.items():
        task = model.pipeline.task
        for here, there in zip(model.predict(rows), answers[name], strict=True):
            assert task.differ(as_prediction(here), as_prediction(there)) <= task.tolerance, name


def test_tables_train_without_torch(python, wheel, tmp_path):
    install(python, f"{wheel}[tables]")
    assert is_there(python, "torch", "transformers", "matplotlib") == []
    assert megabytes(python) < 800
    mainstem = str(python.parent / "mainstem")
    run(mainstem, "example", "table", cwd=tmp_path)
    said = run(mainstem, "train", "table.csv", "--target", "rent", "--backbone", "linear", "--backbone", "trees", "-o", "run", cwd=tmp_path)
    assert "Sealed" in said
    assert "verified" in run(mainstem, "verify", "run", cwd=tmp_path)
    assert len(run(mainstem, "predict", "run", "table.csv", cwd=tmp_path).splitlines()) == 601
