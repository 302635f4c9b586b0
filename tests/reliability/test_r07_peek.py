"""Row 7: evaluation cannot peek. What the test rows hold changes nothing that was learned, and leaks are found."""

import json

import numpy as np
import pytest
import trials

from mainstem.contracts import Rows
from mainstem.data import kinds, leaks

PROMISE = "test rows change nothing that was learned; certain leaks are found and clean data raises no alarm"
MOODS = {"yes": "fine lovely warm great bright calm".split(), "no": "poor cold dull broken grim loud".split()}
ORDINARY = "the a film play book evening story actor plot music scene ending crowd ticket seat hall light sound".split()


# --- (a) perturbed test rows ------------------------------------------------------------------------------------------


def perturb(rows, rng):
    """Other values in every cell of the test rows: extreme numbers, unseen categories and words, missing cells, and other answers."""
    changed = []
    for row in rows:
        new = dict(row)
        for name, value in row.items():
            draw = rng.uniform()
            if name == "y":
                continue
            if isinstance(value, float):
                new[name] = None if draw < 0.3 else float(rng.normal() * 10.0 ** rng.integers(-3, 9))
            else:
                new[name] = f"未见 unseen {rng.integers(1000)}" if draw < 0.7 else f"x{rng.integers(1000)}"
        changed.append(new)
    answers = [row["y"] for row in rows]
    for row, answer in zip(changed, rng.permutation(answers), strict=True):
        row["y"] = str(answer)
    return changed


def learned(case, folder):
    """Every learned file of the model, and the ids of encodings and graphs."""
    trials.train(case, trials.fresh(folder))
    contents = json.loads((folder / "model" / "mainstem.json").read_bytes())
    states = json.dumps([contents[name] for name in ("inputs", "target", "state", "settings", "schema")]).encode()
    return (
        trials.weights(folder).encode()
        + states
        + b"".join(
            p.read_bytes() for p in sorted((folder / "model").rglob("*")) if p.name in ("head.json", "config.json", "state.safetensors")
        )
    )


def peeking(count, folder, name, repeats, seed):
    """Train on the same rows beside test rows that differ, and compare what was learned."""
    rng = np.random.default_rng(seed)
    case = trials.cases(folder)[name]
    rows = case["data"]
    train, test = rows[:28], rows[28:]
    place = folder / "test.jsonl"
    first = None
    for i in range(repeats + 1):
        write(place, perturb(test, rng) if i else test)
        now = learned({**case, "data": train, "test": str(place)}, folder / "run")
        if first is None:
            first = now
        else:
            count(now == first, f"{name}: perturbed test rows {i} changed what was learned")
    write(place, test)
    other = [{**row, "a": row["a"] + 1} if "a" in row else {**row, "text": row["text"] + " more"} for row in train]
    count(learned({**case, "data": other, "test": str(place)}, folder / "run") != first, f"{name}: other training rows changed nothing")


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_test_rows_change_nothing(tmp_path):
    count = trials.Count(7, PROMISE, 7)
    peeking(count, tmp_path / "several", "several", 2, 7)
    peeking(count, tmp_path / "text", "text", 1, 7)
    count.check()


# --- (b) planted leaks ------------------------------------------------------------------------------------------------


class Data:
    """Numbers, a category and, in every other one, a sentence; clean. Plant a leak by changing `columns` or `parts`."""

    def __init__(self, rng, text):
        self.rng, self.count = rng, int(rng.integers(120, 300))
        a, b = rng.normal(size=(2, self.count)).round(4)
        noise = rng.normal(size=self.count)
        self.answers = ["yes" if s > 0 else "no" for s in a + b + noise]
        self.columns = {"a": a.tolist(), "b": b.tolist(), "place": rng.choice(["北京", "north", "south"], self.count).tolist()}
        if text:
            self.columns["note"] = [self.sentence(y) for y in self.answers]
        order = rng.permutation(self.count)
        sizes = int(self.count * 0.7), int(self.count * 0.85)
        self.parts = {"train": order[: sizes[0]], "valid": order[sizes[0] : sizes[1]], "test": order[sizes[1] :]}
        self.groups = self.times = None

    def sentence(self, answer):
        words = [str(w) for w in self.rng.choice(ORDINARY, 14)] + [str(w) for w in self.rng.choice(MOODS[answer], 1 + self.rng.integers(2))]
        words += [str(int(n)) for n in self.rng.integers(0, 10_000, 3)]
        return " ".join(self.rng.permutation(words))

    def findings(self):
        rows = Rows({**self.columns, "y": self.answers}, "data.csv")
        inferred = kinds.infer(rows, ("y",), (), {}, "", "")
        table, _ = inferred.schema.parse(rows, target=True)
        return leaks.check(inferred.schema, table, rows, self.parts, groups=self.groups, times=self.times, given_files=True)


def twins(data, change):
    """A tenth of the test rows are training rows, each passed through `change`."""
    test, train = data.parts["test"], data.parts["train"]
    for i in test[: max(3, len(test) // 3)]:
        source = int(data.rng.choice(train))
        for cells in data.columns.values():
            cells[i] = cells[source]
        data.columns["note"][i] = change(data.columns["note"][source])
        data.answers[i] = data.answers[source]


def exact(data):
    twins(data, lambda text: text)


def near(data):
    twins(data, lambda text: text + " again")


def group(data):
    data.groups = np.array([f"g{i % 40}" for i in range(data.count)])


def time(data):
    """The split claims to go by time, and training rows are younger than test rows."""
    data.times = np.arange(data.count, dtype=float)
    data.rng.shuffle(data.times)


def target(data):
    data.columns["result"] = [{"yes": "A", "no": "B"}[y] for y in data.answers]


LEAKS = {exact: "certain", near: "suspicious", group: "certain", time: "certain", target: "certain"}


def grouped_cleanly(data):
    """Groups that keep to one part, as a clean data set with groups has them."""
    data.groups = np.empty(data.count, object)
    for name, rows in data.parts.items():
        data.groups[rows] = [f"{name}{i % 7}" for i in range(len(rows))]


def timed_cleanly(data):
    data.times = np.empty(data.count)
    start = 0
    for name in ("train", "valid", "test"):
        data.times[data.parts[name]] = np.arange(start, start + len(data.parts[name]))
        start += len(data.parts[name])


def plant(count, seeds):
    """A leak of each kind in data of its own, and as many clean ones."""
    by_kind = {}
    for seed in seeds:
        plants = list(LEAKS)
        planted = plants[seed % len(plants)]
        rng = np.random.default_rng((7, seed))
        data = Data(rng, text=planted in (exact, near) or bool(seed % 2))
        planted(data)
        found = data.findings()
        seen = bool(found.certain if LEAKS[planted] == "certain" else [*found.certain, *found.suspicious])
        count(seen, f"missed: {planted.__name__} with seed {seed}: {found}")
        clean = Data(np.random.default_rng((8, seed)), text=bool(seed % 2))
        (grouped_cleanly, timed_cleanly, lambda data: None)[seed % 3](clean)
        alarm = clean.findings()
        count(not alarm.certain and not alarm.suspicious, f"false alarm with seed {seed}: {alarm}")
        figures = by_kind.setdefault(planted.__name__, {"planted": 0, "found": 0, "clean": 0, "false_alarms": 0})
        figures["planted"] += 1
        figures["found"] += seen
        figures["clean"] += 1
        figures["false_alarms"] += bool(alarm.certain or alarm.suspicious)
    return by_kind


def test_planted_leaks_are_found_and_clean_data_is_not_accused():
    count = trials.Count(7, PROMISE, 7)
    plant(count, range(10))
    count.check()


@pytest.mark.torture
def test_two_hundred_and_two_hundred(tmp_path):
    count = trials.Count(7, PROMISE, 20261124)
    for name, repeats in (("table", 60), ("text", 60), ("several", 80)):
        peeking(count, tmp_path / name, name, trials.scaled(repeats), 20261124)
    peeked = count.n
    by_kind = plant(count, range(trials.scaled(100)))
    count.write(perturbed_test_parts=peeked - 3, leaks=by_kind)
