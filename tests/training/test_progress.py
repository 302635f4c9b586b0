import io
import json
import math
import subprocess
import sys

import pytest
from rich.console import Console

from mainstem.errors import MainstemError
from mainstem.testing.faults import failing
from mainstem.training.progress import Log, Progress, tensorboard


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.5
        return self.now


def run(console, **more):
    with Progress("mlp", 10, console=console, clock=Clock(), **more) as progress:
        for step in range(1, 11):
            progress.step(step, 1 / step, 100)
            if step % 2 == 0:
                progress.epoch(step // 2, {"loss": 1 / step, "valid": None})
    return console.file.getvalue()


def test_silent_where_there_is_no_terminal():
    assert run(Console(file=io.StringIO())) == ""


def test_lines_come_at_the_interval():
    assert run(Console(file=io.StringIO()), log_every=2) == "epoch 2  loss 0.25\nepoch 4  loss 0.125\n"


def test_a_terminal_sees_loss_speed_and_time_left():
    shown = run(Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None), log_every=5)
    assert "mlp" in shown
    assert "loss 0.1 " in shown
    assert "200 rows/s" in shown
    assert "0:00:0" in shown
    assert "epoch 5  loss 0.1" in shown


def test_the_bar_is_not_drawn_at_every_step():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with Progress("x", 1000, console=console, clock=lambda: 1.0) as progress:
        for step in range(1000):
            progress.step(step, 0.5, 1)
    assert console.file.getvalue().count("loss 0.5") <= 3


def test_the_log_holds_one_object_a_line_and_is_cut_on_resuming(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    assert log.size() == 0
    log.write(step=1, loss=0.5, note="二")
    size = log.size()
    log.write(step=2, loss=math.nan)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.5, "note": "二"},
        {"step": 2, "loss": None},
    ]
    Log(log.path, size).write(step=2, loss=0.25)
    assert [json.loads(line)["loss"] for line in log.path.read_text().splitlines()] == [0.5, 0.25]
    with pytest.raises(MainstemError, match="disk is full"), failing(2):
        log.write(step=3)
    assert len(log.path.read_text().splitlines()) == 2


def test_tensorboard_scalars_can_be_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = tensorboard(tmp_path)
    for step in range(3):
        writer.add_scalar("loss", 1.0 / (step + 1), step)
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["tensors"] == ["loss"]
    assert [e.step for e in events.Tensors("loss")] == [0, 1, 2]


def test_what_needs_no_torch_imports_none():
    names = ("checkpoints", "stops", "schedules", "progress", "order")
    heavy = ("torch", "pandas", "rich", "matplotlib")
    code = f"import sys; [__import__('mainstem.training.' + n) for n in {names}]; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_without_tensorboard_there_is_no_writer(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    assert tensorboard(tmp_path) is None
