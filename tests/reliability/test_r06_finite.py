"""Row 6: a NaN or an infinity stops the run within one step, with the weights of the step before, and no model is written."""

import math
import re

import numpy as np
import pytest
import torch
import trials

from mainstem import cli
from mainstem.testing.faults import trial
from mainstem.training import loop
from mainstem.training.optimisers import NonFinite, Optimiser

PROMISE = "a NaN or an infinity in loss, gradient, input, learning rate or weight stops the run within one step, and no model is written"
BAD = (math.nan, math.inf, -math.inf)
PLACES = ("loss", "gradient", "input", "rate", "weight")


class Watch:
    """Puts a bad number into step `at` of the fit number `fit`, and keeps what the weights were before and after."""

    def __init__(self, patch, place, at, bad, fit=1):
        self.place, self.at, self.bad, self.fit = place, at, bad, fit
        self.fits = self.done = 0
        self.before = self.after = None
        real, watch = loop._Fit._step, self

        def step(run, indices):
            if not run.history.steps:
                watch.fits += 1
            watch.done = run.history.steps + 1
            armed = watch.fits == watch.fit and watch.done == watch.at
            if not armed:
                return real(run, indices)
            watch.before = loop._copy(run.networks)
            try:
                with pytest.MonkeyPatch.context() as inner:
                    watch.plant(inner, run)
                    real(run, indices)
                    run._check()  # what a checkpoint or the end of the run does
            finally:
                watch.after = loop._copy(run.networks)

        patch.setattr(loop._Fit, "_step", step)

    def plant(self, patch, run):
        if self.place == "rate":
            patch.setattr(run.schedule, "factor", lambda *now: self.bad)
        elif self.place == "weight":  # an update that overflows: the step after it must not be taken
            with torch.no_grad():
                next(p for o in run.optimisers.values() for _, p in o.named).view(-1)[0] = self.bad
            self.before = None
        elif self.place == "input":
            real = loop.tensors

            def tensors(batch):
                made = real(batch)
                floating = [a for arrays in made.inputs.values() for a in arrays.values() if a.is_floating_point()]
                for array in floating:
                    array.view(-1)[:] = self.bad
                return made

            patch.setattr(loop, "tensors", tensors)
        else:
            real = Optimiser.step

            def step(optimiser, closure):
                def broken():
                    loss = closure()
                    if self.place == "loss":
                        return loss * self.bad
                    loss.register_hook(lambda gradient: gradient * self.bad)  # the loss itself stays finite
                    return loss

                return real(optimiser, broken)

            patch.setattr(Optimiser, "step", step)


def inject(count, case, name, place, at, bad, folder, fit=1):
    """One run with one bad number; told by the number of the step, the rate and what to try."""
    trials.fresh(folder)
    with pytest.MonkeyPatch.context() as patch:
        watch = Watch(patch, place, at, bad, fit)
        said = None
        try:
            trials.train(case, folder)
        except NonFinite as error:
            said = error
    told = said is not None and bool(re.search(r"step \d+.*at learning rate .*--lr", str(said))) and said.step == at
    same = watch.before is None or all(
        np.array_equal(watch.before[k], watch.after[k]) for k in watch.before if "running_" not in k and "num_batches" not in k
    )
    steps = sorted(folder.rglob("step-*"))
    finite = all(np.isfinite(array).all() for path in steps for array in _floats(path))
    right = told and same and watch.done == at and finite and not (folder / "model").exists()
    count(right, f"{name} {place} {bad} at step {at} of fit {fit}: {said}, {watch.done} steps, same {same}, finite {finite}")


def usable(name, place, bad):
    """The bad number; in a table's inputs NaN is the mark of a missing cell, so infinity in its place."""
    return math.inf if (name, place) == ("table", "input") and math.isnan(bad) else bad


def _floats(path):
    from safetensors.numpy import load_file

    arrays = load_file(path / "arrays.safetensors")
    return [a for name, a in arrays.items() if a.dtype.kind == "f" and name.startswith(("weights/", "optimiser/"))]


@pytest.mark.parametrize("place", PLACES)
def test_a_bad_number_stops_the_run(tmp_path, place):
    count = trials.Count(6, PROMISE, 6)
    inject(count, trials.cases(tmp_path)["table"], "table", place, 3, usable("table", place, math.nan), tmp_path / "run")
    inject(count, trials.cases(tmp_path)["table"], "table", place, 2, math.inf, tmp_path / "run", fit=2)
    count.check()


def test_the_command_line_exits_with_2_and_writes_no_model(tmp_path, capsys):
    data = tmp_path / "rows.csv"
    rows = trials.table_rows()
    data.write_text("a,b,y\n" + "".join(f"{r['a']},{r['b']},{r['a'] + r['b']}\n" for r in rows), encoding="utf-8")
    line = ["train", str(data), "--target", "y", "--backbone", "mlp", "--optimizer", "sgd", "--lr", "1e30", "--epochs", "5"]
    assert cli.main([*line, "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert re.search(r"training stopped at step \d+: the \w+.* at learning rate 1e\+30\. Try a lower rate \(--lr", said)
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.torture
def test_three_hundred(tmp_path):
    count, rng = trials.Count(6, PROMISE, 20261124), np.random.default_rng(20261124)
    cases = trials.cases(tmp_path)
    made = {}
    for name in ("table", "text", "pictures"):
        trials.train(cases[name], tmp_path / name)  # so that no trial pays for imports
    for i in range(trials.scaled(300)):
        name, place = ("table", "text", "pictures")[i % 3], PLACES[i % len(PLACES)]
        fit = int(rng.integers(1, 3))
        case, bad, at = cases[name], usable(name, place, BAD[int(rng.integers(3))]), int(rng.integers(1, 5))
        made[f"{name} {place}"] = made.get(f"{name} {place}", 0) + 1

        def one(case=case, name=name, place=place, at=at, bad=bad, fit=fit):
            inner = trials.Count(6, PROMISE, 0)
            inject(inner, case, name, place, at, bad, tmp_path / "run", fit)
            assert not inner.failures, inner.failures[0]

        done = trial(one)
        count(done.kind == "done", done.message[-1500:])
    count.write(injections=made)
