"""Row 1: a killed run resumes exactly, with the same call, whenever and however often it was killed."""

import mmap
import struct
import time

import numpy as np
import pytest
import trials

from mainstem.testing.faults import counting, killing, trial

PROMISE = "a run killed at any moment goes on by the same call and ends in the same weights; one step is done again at most"


class Steps:
    """The last step that a child told before it died, and the first that the resumed one told. Shared across a fork."""

    def __init__(self):
        self.shared = mmap.mmap(-1, 32)

    def report(self, figures):
        if "lr" in figures:
            now = struct.pack("qq", 1000 if figures["part"] == "refit" else int(figures["part"]), figures["step"])
            if self.shared[:16] == bytes(16):
                self.shared[:16] = now
            self.shared[16:] = now

    def first(self):
        return struct.unpack("qq", self.shared[:16])

    def last(self):
        return struct.unpack("qq", self.shared[16:])


class Whole:
    """A case that was run without a fault: its weights, its seconds, its operations."""

    def __init__(self, folder, name):
        self.case, self.name, self.folder = trials.cases(folder)[name], name, folder
        trials.train(self.case, folder / "warm")  # so that no trial pays for imports
        started = time.monotonic()
        done = trial(lambda: trials.train(self.case, folder / "whole"), counting)
        self.seconds, self.calls = time.monotonic() - started, done.calls
        assert done.kind == "done", done.message
        self.weights = trials.weights(folder / "whole")

    def kill(self, count, *faults):
        """Kill one run by each of the faults in turn, then let it go on to its end."""
        place, before = trials.fresh(self.folder / "killed"), (0, 0)
        for number, fault in enumerate([*faults, {}]):
            steps = Steps()
            done = trial(lambda r=bool(number), s=steps: trials.train(self.case, place, resume=r, report=s.report), **fault)
            what = f"{self.name}, {faults}, part {number}: {done.kind} {done.message}"
            if fault and done.kind == "killed":
                lost = steps.first() != (0, 0) and steps.first() < before
                before = max(before, steps.last())
                if lost:
                    return count(False, f"{what}: went on at {steps.first()} after {before}")
                continue
            if done.kind != "done":
                return count(False, what)
            if steps.first() != (0, 0) and steps.first() < before:
                return count(False, f"{what}: went on at {steps.first()} after {before}")
        return count(trials.weights(place) == self.weights and not trials.leftovers(place), f"{what} {trials.leftovers(place)}")


def at(n):
    return {"fault": lambda: killing(n)}


def one_save(calls):
    """The operations of the third save of a checkpoint: from the making of its folder to that of the next thing."""
    made = [i for i, name in enumerate(calls, 1) if name == "mkdir"]
    return range(made[2], made[3])


def test_killed_runs_resume_to_the_same_weights(tmp_path):
    whole, count = Whole(tmp_path, "several"), trials.Count(1, PROMISE, 1)
    save = one_save(whole.calls)
    for n in (save[len(save) // 2], save[-1], len(whole.calls) - 30):
        whole.kill(count, at(n))
    whole.kill(count, {"after": whole.seconds / 3}, {"after": whole.seconds / 3})
    count.check()


@pytest.mark.torture
def test_every_kill(tmp_path):
    count, rng = trials.Count(1, PROMISE, 20261124), np.random.default_rng(20261124)
    by_case = {}
    for name, uniform in (("table", 60), ("text", 50), ("pictures", 50), ("several", 40)):
        whole, before = Whole(tmp_path / name, name), count.n
        for n in one_save(whole.calls):
            whole.kill(count, at(n))
        for n in sorted(rng.choice(np.arange(1, len(whole.calls) + 1), trials.scaled(uniform), replace=False).tolist()):
            whole.kill(count, at(n))
        operations = count.n - before
        for _ in range(trials.scaled(uniform)):
            times = rng.uniform(0, whole.seconds, 1 if rng.uniform() < 0.8 else 3)
            whole.kill(count, *({"after": float(t)} for t in times))
        by_case[name] = {
            "at_an_operation": operations,
            "at_a_uniform_time": count.n - before - operations,
            "operations_of_a_save": len(one_save(whole.calls)),
            "operations_of_a_run": len(whole.calls),
        }
    count.write(cases=by_case, seal="the check of the seal ran in the killed process itself")
