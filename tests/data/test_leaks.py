import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from mainstem.contracts import Rows
from mainstem.data import alone, leaks, similar
from mainstem.data.kinds import infer
from mainstem.data.splits import split
from mainstem.errors import MainstemError

WORDS = ["ma", "tel", "bor", "in", "sca", "ve", "lun", "dor", "pi", "ga", "rem", "shu", "to", "kin", "wa", "ples"]


def made(seed, n=400, classes=2, regression=False):
    """A clean table of numbers and categories whose target is a noisy function of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    count, colour = rng.integers(0, 9, n), rng.choice(["red", "green", "blue"], n)
    hidden = x[:, 0] - x[:, 1] * x[:, 2] + 0.3 * count + (colour == "red") + rng.normal(size=n)
    target = np.round(hidden, 3) if regression else np.digitize(hidden, np.quantile(hidden, np.arange(1, classes) / classes))
    columns = {f"x{i}": [f"{v:.4f}" for v in x[:, i]] for i in range(4)}
    columns |= {"count": [str(v) for v in count], "colour": colour.tolist()}
    return columns | {"y": [str(v) if regression else f"class {v}" for v in target]}


def sentence(rng, length):
    vocabulary = ["".join(rng.choice(WORDS, 3)) for _ in range(length)]
    return " ".join(vocabulary)


def texts(seed, n=300):
    rng = np.random.default_rng(seed)
    return {"text": [sentence(rng, int(rng.integers(8, 30))) for _ in range(n)], "y": [str(v) for v in rng.choice(["good", "bad"], n)]}


def look(columns, parts=None, target="y", exclude=(), numbers=(), **settings):
    """Findings over columns; parts as row indices, or our own split."""
    rows = Rows(columns, "a.csv", numbers)
    schema = infer(rows, [target], exclude=exclude).schema
    table, errors = schema.parse(rows, target=True)
    assert not errors
    together = leaks.keep_together(table, schema)
    parts = parts or split(len(table), target=table.target, hashes=table.hashes, keep_together=together, groups=settings.get("groups"))
    return leaks.check(schema, table, rows, parts, **settings)


def sorts(findings):
    return {finding.sort for finding in findings.certain}, {finding.sort for finding in findings.suspicious}


def halves(n):
    return {"train": range(n * 3 // 4), "test": range(n * 3 // 4, n)}


# --- clean data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_clean_tables_raise_no_alarm(seed):
    columns = made(seed, n=150 + 50 * seed, classes=2 + seed % 3, regression=seed % 3 == 0)
    assert sorts(look(columns)) == (set(), set())
    assert sorts(look(columns, halves(150 + 50 * seed), given_files=True)) == (set(), set())


@pytest.mark.parametrize("seed", range(3))
def test_clean_texts_raise_no_alarm(seed):
    assert sorts(look(texts(seed), halves(300), given_files=True)) == (set(), set())


@pytest.mark.parametrize("load", [datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer, datasets.load_diabetes])
def test_known_data_raises_no_alarm(load):
    data = load()
    columns = {str(name): data.data[:, i].tolist() for i, name in enumerate(data.feature_names)}
    target = data.target.tolist() if load is datasets.load_diabetes else [f"class {v}" for v in data.target]
    assert sorts(look(columns | {"y": target})) == (set(), set())


# --- certain leaks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_target_under_another_name(seed):
    columns = made(seed, classes=2 + seed % 3)
    names = {label: f"code {i}" for i, label in enumerate(sorted(set(columns["y"])))}
    copied = look({**columns, "outcome": [names[v] for v in columns["y"]]})
    assert [(f.sort, f.column) for f in copied.certain] == [("target", "outcome")]
    numbered = look({**columns, "outcome": [names[v][5:] if i % 50 else "" for i, v in enumerate(columns["y"])]})
    assert [f.column for f in numbered.certain] == ["outcome"]


@pytest.mark.parametrize("decimals", [9, 3, 1])
def test_target_in_other_units(decimals):
    columns = made(1, regression=True)
    y = np.array(columns["y"], float)
    found = look({**columns, "fahrenheit": [f"{v:.{decimals}f}" for v in y * 18 + 32]})
    assert [f.column for f in found.certain] == ["fahrenheit"]
    noisy = y * 18 + 32 + np.random.default_rng(0).normal(size=len(y))
    assert not look({**columns, "noisy": [f"{v:.{decimals}f}" for v in noisy]}).certain


def test_coarse_numbers_are_no_copy():
    y = np.random.default_rng(0).normal(size=200)
    assert not alone.is_affine_copy(np.round(y), y)
    assert not alone.is_affine_copy(np.ones(200), y)
    assert alone.is_affine_copy(1e6 * y + 1e9, y)


def test_a_label_of_several_under_another_name():
    columns = made(2)
    rng = np.random.default_rng(0)
    labels = ["|".join(label for label in ("sun", "rain", "wind") if rng.random() < 0.5) or "none of them" for _ in columns["y"]]
    leak = ["wet" if "rain" in cell else "dry" for cell in labels]
    assert [f.column for f in look({**columns, "ground": leak, "y": labels}).certain] == ["ground"]


def test_the_only_input_is_never_a_leak():
    columns = made(0)
    found = look({"outcome": [v.upper() for v in columns["y"]], "y": columns["y"]})
    assert sorts(found) == (set(), set())
    x = np.arange(50.0)
    assert sorts(look({"x": x.tolist(), "y": (2.5 * x + 1.25).tolist()})) == (set(), set())


def test_a_group_on_both_sides():
    columns, groups = made(3), [f"patient {i // 4}" for i in range(400)]
    parts = {"train": [i for i in range(400) if i % 4], "test": [i for i in range(400) if not i % 4]}
    found = look(columns, parts, groups=groups, numbers=range(2, 402))
    assert sorts(found)[0] == {"group"}
    assert "100 groups 'patient 0', 'patient 1'" in found.certain[0].sentence
    assert found.certain[0].rows == (2, 6, 10, 14, 18)
    assert sorts(look(columns, groups=groups))[0] == set()  # our split keeps groups whole


def test_train_rows_later_than_test_rows():
    columns = made(4)
    times = [float(i) for i in range(400)]
    forward = look(columns, halves(400), times=times, given_files=True)
    assert sorts(forward)[0] == set()
    times[7], times[350] = 350.0, 7.0
    late = look(columns, halves(400), times=times, given_files=True)
    assert sorts(late)[0] == {"time"}
    assert "of train are later than the first of test" in late.certain[0].sentence
    assert sorts(look(columns, halves(400), times=times))[0] == set()


def test_the_same_text_in_given_files():
    columns = texts(0)
    columns["text"][280] = columns["text"][10].upper().replace(" ", "  ")
    found = look(columns, halves(300), given_files=True)
    assert [(f.sort, f.rows, f.column) for f in found.certain] == [("same", (281,), "text")]
    columns["text"][280], columns["text"][10] = "good film", "Good film"  # anyone may write that
    assert sorts(look(columns, halves(300), given_files=True)) == (set(), set())


def picture(value):
    stream = io.BytesIO()
    Image.new("RGB", (3, 3), (value % 256, value // 256, 0)).save(stream, "PNG")
    return stream.getvalue()


def test_the_same_picture_in_given_files():
    columns = {"image": [picture(i) for i in range(40)], "y": ["cat", "dog"] * 20}
    assert sorts(look(columns, halves(40), given_files=True))[0] == set()
    columns["image"][39] = columns["image"][0]
    found = look(columns, halves(40), given_files=True)
    assert [(f.sort, f.rows) for f in found.certain] == [("same", (40,))]


# --- equal rows -----------------------------------------------------------------------------------------------------------


def test_few_repeats_stay_on_one_side():
    columns = made(5)
    for name in columns:
        columns[name][390:] = columns[name][:10]
    rows = Rows(columns)
    schema = infer(rows, ["y"]).schema
    table, _ = schema.parse(rows, target=True)
    assert leaks.keep_together(table, schema)
    assert not look(columns).notes
    given_ = look(columns, halves(400), given_files=True)
    assert sorts(given_) == (set(), {"equal"})
    assert "10 rows of test equal rows of train" in given_.suspicious[0].sentence


def test_ordinary_repeats_are_counted():
    rng = np.random.default_rng(0)
    columns = {name: rng.choice(["a", "b"], 300).tolist() for name in ("class", "sex", "age", "y")}
    rows = Rows(columns)
    schema = infer(rows, ["y"]).schema
    table, _ = schema.parse(rows, target=True)
    assert not leaks.keep_together(table, schema)
    found = look(columns)
    assert sorts(found) == (set(), set())
    assert "45 rows of valid and 45 rows of test equal rows of train" in found.notes[0]
    assert "8 different rows among 300" in found.notes[0]
    text = replace(schema, columns=(replace(schema.columns[0], kind="text"), *schema.columns[1:]))
    assert leaks.keep_together(table, text)


# --- suspicious -------------------------------------------------------------------------------------------------------------


def test_near_texts_are_found():
    rng, found = np.random.default_rng(0), 0
    columns = texts(1, n=400)
    for i in range(300, 400):
        words = columns["text"][i - 300].split()
        words[int(rng.integers(len(words)))] = "changed"
        columns["text"][i] = " ".join(words) + "!"
    found = look(columns, {"train": range(300), "test": range(300, 400)})
    assert sorts(found) == (set(), {"near"})
    pairs = similar.near_texts(columns["text"][:300], columns["text"][300:])
    assert np.mean([(i, i) in pairs for i in range(100)]) >= 0.9


def test_near_chinese_texts_are_found():
    base = ["房间很干净服务态度也很好下次还会再来住", "上网费用很贵还上不了网怀疑是网线的问题", "图画凌乱质量也很差孩子完全不喜欢看这本书"]
    pairs = similar.near_texts(base, ["这本书的内容很丰富值得一看推荐给大家阅读", base[1].replace("怀疑", "也许"), base[2] + "。"])
    assert pairs == [(1, 1), (2, 2)]


def test_near_rows_are_found():
    rng, hits = np.random.default_rng(0), 0
    for seed in range(10):
        columns = made(seed)
        for i in range(370, 400):
            for name in columns:
                columns[name][i] = columns[name][i - 370]
            columns["x1"][i] = f"{float(columns['x1'][i]) + rng.normal() * 0.01:.4f}"
            columns["x2"][i] = f"{float(columns['x2'][i]) + rng.normal() * 0.01:.4f}"
        found = look(columns, halves(400), given_files=True)
        hits += "near" in sorts(found)[1]
        assert not found.certain
    assert hits >= 9


def test_one_column_that_is_almost_the_target():
    columns = made(6, regression=True)
    leak = [f"{np.exp(float(v) / 3):.5f}" for v in columns["y"]]
    assert [(f.sort, f.column) for f in look({**columns, "exp": leak}).suspicious] == [("alone", "exp")]
    columns = made(7)
    leak = [v if i % 200 else "unknown" for i, v in enumerate(columns["y"])]
    found = look({**columns, "status": leak})
    assert [(f.sort, f.column) for f in found.suspicious] == [("alone", "status")]


@pytest.mark.parametrize(
    ("cells", "is_id"),
    [
        ([f"user{i * 7919 % 1000}" for i in range(400)], True),
        ([str(i * 3) for i in range(400)], True),
        ([str(v) for v in np.random.default_rng(0).permutation(400)], True),
        ([f"{i + 0.5:.1f}" for i in range(400)], True),
        ([str(v) for v in np.random.default_rng(0).permutation(10_000_000)[:400]], False),
        ([f"{v:.6f}" for v in np.random.default_rng(0).normal(size=400)], False),
        ([str(i // 2) for i in range(400)], False),
    ],
)
def test_ids(cells, is_id):
    assert [(f.sort, f.column) for f in look({**made(8), "n": cells}).suspicious] == ([("id", "n")] if is_id else [])


# --- what becomes of it -----------------------------------------------------------------------------------------------------


def test_certain_leaks_stop_the_run_unless_allowed():
    columns = made(0)
    found = look({**columns, "copy": [v.upper() for v in columns["y"]]})
    with pytest.raises(MainstemError, match="'copy' is the target under another name") as caught:
        leaks.stop(found)
    assert "--allow-leak" in str(caught.value)
    leaks.stop(found, allow=True)
    leaks.stop(look(columns))


def test_rows_that_did_not_parse_do_not_shift_the_numbers():
    columns = texts(2)
    columns["y"][0] = ""
    columns["text"][280] = columns["text"][10]
    rows = Rows(columns, "a.csv", range(2, 302))
    schema = infer(rows, ["y"]).schema
    table, errors = schema.parse(rows, target=True)
    assert list(errors) == [0]
    found = leaks.check(schema, table, rows, halves(len(table)), given_files=True)
    assert found.certain[0].rows == (282,)


def test_ten_thousand_texts_are_quick():
    rng = np.random.default_rng(0)
    vocabulary = ["".join(rng.choice(WORDS, 3)) for _ in range(3000)]
    cells = [" ".join(vocabulary[i] for i in rng.integers(0, 3000, 40)) for _ in range(10_000)]
    start = time.process_time()
    assert similar.near_texts(cells[:8000], [*cells[8000:], cells[5] + " more"])[-1] == (2000, 5)
    assert time.process_time() - start < 3
