"""The command as it is started: what it costs, what it imports, signals and pipes."""

import json
import signal
import subprocess
import sys

import mainstem as ms

HEAVY = ("torch", "transformers", "pandas", "sklearn", "onnxruntime", "numpy", "pydantic", "typer", "rich", "starlette")
COST = "import json, sys, time; {}; print(json.dumps([time.process_time(), sorted(sys.modules)]))"


def once(code):
    """CPU seconds of a fresh process, and the modules that were imported."""
    done = subprocess.run([sys.executable, "-c", COST.format(code)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def cost(code):
    """The least CPU seconds of five fresh processes, start of Python apart, and the modules that were imported."""
    bare = min(once("pass")[0] for _ in range(5))
    runs = [once(code) for _ in range(5)]
    return min(seconds for seconds, _ in runs) - bare, runs[0][1]


def test_importing_mainstem_costs_little_and_imports_nothing_heavy():
    seconds, modules = cost("import mainstem")
    assert seconds < 0.05
    assert [name for name in HEAVY if name in modules] == []


def test_help_costs_little_and_imports_nothing_heavy():
    seconds, modules = cost("from mainstem.cli import main; main(['--help'])")
    assert seconds < 0.2
    assert [name for name in HEAVY if name in modules] == []


def test_what_only_tells_imports_no_torch():
    lines = [["list", "backbones"], ["list", "tasks"], ["list", "runtimes"], ["doctor"], ["train", "--help"]]
    _, modules = once(f"from mainstem.cli import main; [main(line) for line in {lines!r}]")
    assert [name for name in ("torch", "transformers", "timm", "sklearn", "pandas") if name in modules] == []


def test_python_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "mainstem", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"mainstem {ms.__version__}\n"
    assert subprocess.run([sys.executable, "-m", "mainstem", "nothing"], capture_output=True).returncode == 2


def test_a_closed_pipe_is_quiet(table_run, table_data):
    command = f"{sys.executable} -m mainstem predict {table_run.path} {table_data} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("prediction,")
    assert done.stderr == ""


def test_standard_input_is_data(table_run):
    rows = "area,rooms,城区\n50,2,海淀\n"
    done = subprocess.run(
        [sys.executable, "-m", "mainstem", "predict", str(table_run.path), "-"], input=rows.encode(), capture_output=True, check=True
    )
    assert len(done.stdout.decode().splitlines()) == 2


def test_ctrl_c_seals_the_best_so_far(tmp_path):
    data, run = tmp_path / "line.csv", tmp_path / "run"
    data.write_text("input,output\n" + "".join(f"{i / 10},{i * 0.25 + (i * 7919 % 13) / 9}\n" for i in range(120)))
    flags = ["--backbone", "linear", "--optimizer", "gd", "--lr", "0.01", "--epochs", "10000000", "--tol", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mainstem", "train", str(data), "--target", "output", *flags, "-o", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if line.startswith("epoch 300"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "the best so far" in err
    assert "Sealed:" in out
    assert ms.load(run).verify()["rows"] > 0
