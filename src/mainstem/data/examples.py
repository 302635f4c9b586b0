"""Small data sets to try things on, and the command that uses each. All are made here, by a fixed seed, but the digits.

linear: a noisy line. table: rents of flats, invented. reviews: sentences in English and Chinese, put together from parts.
digits: 1,797 written digits (E. Alpaydin & C. Kaynak 1998, UCI), iris-in-context: 150 flowers (R. A. Fisher 1936), both as scikit-learn
ships them. pretrain-tiny: no data, but the config of a pretraining run that takes a minute.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import files
from mainstem.errors import MainstemError, MissingExtra, suggest

SEED = 20260101


def write(name: str, folder: Path | str = ".") -> str:
    """Write the example `name` into `folder`, made where it is missing; returns the command that trains on it.

    Raises MainstemError for an unknown name and where something of that name lies there already, MissingExtra for what
    scikit-learn ships without scikit-learn.
    """
    if name not in _EXAMPLES:
        raise MainstemError(f"there is no example '{name}'", do=suggest(name, _EXAMPLES))
    entry, command, make = _EXAMPLES[name]
    target = Path(folder) / entry
    if target.exists():
        raise MainstemError(
            "this exists already and is not overwritten", where=str(target), do="Remove it, or choose another folder with -o."
        )
    make(target)
    return command.replace(_PATH, shlex.quote(str(target)))


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], *, bom: bool = False) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    files.write_bytes(path, stream.getvalue().encode("utf-8-sig" if bom else "utf-8"))


def _linear(path: Path) -> None:
    """output = 2.5 · input + 4, and noise of deviation 1; 100 rows."""
    rng = np.random.default_rng(SEED)
    x = rng.uniform(0, 10, 100).round(3)
    y = (2.5 * x + 4 + rng.normal(0, 1, 100)).round(3)
    _write_csv(path, ("input", "output"), list(zip(x.tolist(), y.tolist(), strict=True)))


_DISTRICTS = {"centre": 4.5, "harbour": 3.0, "university": 2.5, "old town": 2.0, "north": 0.5, "hills": 1.5, "industrial": -2.0}
_HEATING = {"district": 0.0, "gas": -0.4, "heat pump": 0.8, "electric": -1.0}
_REMARKS = (
    {"bright rooms": 0.6, "dark rooms": -0.8, "high ceilings": 0.7, "sloping ceilings": -0.3, "large kitchen": 0.5, "small kitchen": -0.4},
    {"on a quiet street": 0.6, "on a busy road": -0.9, "facing the yard": 0.3, "facing the park": 0.9, "above a bakery": 0.0},
    {
        "newly renovated": 1.0,
        "needs repair": -1.5,
        "with balcony": 0.6,
        "without a lift": -0.5,
        "with parking space": 0.5,
        "pets welcome": 0.0,
    },
)


def _table(path: Path) -> None:
    """600 flats: numbers, categories, dates, a remark, some of them missing; the rent is to be predicted."""
    rng = np.random.default_rng(SEED)
    rows = []
    for _ in range(600):
        area = float(np.clip(rng.lognormal(4.15, 0.4), 18, 220).round(1))
        rooms = int(np.clip(round(area / 25 + rng.normal(0, 0.6)), 1, 8))
        floor = int(rng.integers(0, 9))
        district, heating = str(rng.choice(list(_DISTRICTS))), str(rng.choice(list(_HEATING)))
        listed = date(2024, 1, 1) + timedelta(days=int(rng.integers(0, 730)))
        built = int(rng.integers(1890, 2024))
        remarks = [str(rng.choice(list(part))) for part in _REMARKS]
        price = 11 + _DISTRICTS[district] + _HEATING[heating] + sum(part[said] for part, said in zip(_REMARKS, remarks, strict=True))
        price += 0.15 * floor + 2.0 * abs(built - 1960) / 60 + (listed - date(2024, 1, 1)).days / 365
        rent = round(area * price * float(np.exp(rng.normal(0, 0.06))))
        cells: list[Any] = [area, rooms, floor, district, heating, built, listed.isoformat(), ", ".join(remarks)]
        for column, share in ((1, 0.04), (4, 0.08), (5, 0.12), (7, 0.05)):
            if rng.random() < share:
                cells[column] = ""
        rows.append([*cells, rent])
    _write_csv(path, ("area", "rooms", "floor", "district", "heating", "built", "listed", "remark", "rent"), rows)


# (things, what is said of them when content, when not, what follows: says nothing)
_ENGLISH = (
    ("The film", "This book", "The phone", "Our hotel room", "The soup", "The new chair", "Their delivery", "The concert"),
    ("was a joy from start to finish", "is better than I had hoped", "was worth every penny", "made my whole week", "is not bad at all"),
    ("was a waste of money", "is worse than the old one", "fell apart after two days", "was never as promised", "is not good at all"),
    (".", ", and I have tried many.", "; my sister says the same.", ". I bought it in spring.", ", to be honest."),
)
_CHINESE = (
    ("这部电影", "这本书", "这款手机", "酒店的房间", "这家的汤", "新买的椅子", "快递服务", "昨晚的音乐会"),
    ("让人从头到尾都很开心", "比我想象的好得多", "非常值这个价钱", "质量很好，用着放心", "一点也不差"),
    ("完全是浪费钱", "还不如以前的那个", "用了两天就坏了", "和宣传的根本不一样", "一点也不好"),
    ("。", "，我试过不少家了。", "，我妹妹也这么说。", "。春天的时候买的。", "，说实话。"),
)


def _reviews(path: Path) -> None:
    """400 sentences, no two alike, half in Chinese and half of them content; UTF-8 with a byte order mark, as spreadsheets save it."""
    rng = np.random.default_rng(SEED)
    rows = []
    for (things, content, annoyed, ends), gap in ((_ENGLISH, " "), (_CHINESE, "")):
        for label, said in (("positive", content), ("negative", annoyed)):
            sentences = [f"{thing}{gap}{opinion}{end}" for thing, opinion, end in product(things, said, ends)]
            rows += [(sentences[i], label) for i in rng.choice(len(sentences), 100, replace=False)]
    _write_csv(path, ("text", "label"), [rows[i] for i in rng.permutation(len(rows))], bom=True)


def _shipped(name: str, example: str) -> Any:
    """A data set of scikit-learn."""
    try:
        from sklearn.datasets import load_digits, load_iris
    except ImportError as error:
        raise MissingExtra(f"the example '{example}'", "tables", "scikit-learn") from error
    return {"digits": load_digits, "iris": load_iris}[name]()


def _iris(path: Path) -> None:
    """Four measures of each flower, and its species."""
    data = _shipped("iris", "iris-in-context")
    header = [*(name.removesuffix(" (cm)").replace(" ", "_") for name in data.feature_names), "species"]
    _write_csv(path, header, [[*row, data.target_names[i]] for row, i in zip(data.data.tolist(), data.target, strict=True)])


_TINY = """\
# A network that answers rows of a table from other rows of it, learned in a minute from tables that are made up.
objective: tables
settings: {width: 32, layers: 2, heads: 2, cells: 3000}
training: {optimizer: muon, lr: 0.004, weight_decay: 0.01, clip: 1.0}
stages:
  - settings: {context: [16, 60], columns: [2, 6]}
    training: {steps: 600, warmup: 50, schedule: cosine}
evaluate_every: 100
"""


def _tiny(path: Path) -> None:
    files.write_text(path, _TINY)


def _digits(path: Path) -> None:
    """FOLDER/0 … FOLDER/9, grey pictures of 8 × 8 pixels."""
    data = _shipped("digits", "digits")
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with files.folder(path) as made:
        for i, (pixels, label) in enumerate(zip(data.images, data.target, strict=True)):
            stream = io.BytesIO()
            Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(stream, "PNG")
            made.add(f"{label}/{i:04d}.png", stream.getvalue())


_PATH = "PATH"
_SHOPS = ("北京", "Leipzig", "上海", "Turku")


def _series(path: Path) -> None:
    """Ten years of monthly sales of four shops, with a year and its campaigns; a few months are missing, and so is what is to come: the
    last twelve months have campaigns but no sales."""
    rng = np.random.default_rng(SEED)
    rows: list[tuple[Any, ...]] = []
    for shop in _SHOPS:
        level, growth, phase = rng.uniform(80, 300), rng.uniform(-0.02, 0.08), rng.uniform(0, 2 * np.pi)
        for t in range(132):
            month, campaign = f"{2015 + t // 12}-{t % 12 + 1:02d}", "yes" if rng.random() < 0.2 else "no"
            year = 1 + 0.3 * np.sin(2 * np.pi * t / 12 + phase) + 0.1 * np.sin(4 * np.pi * t / 12)
            sold = level * (1 + growth * t / 12) * year * (1.25 if campaign == "yes" else 1.0) * np.exp(rng.normal(0, 0.05))
            if t >= 120 or rng.random() > 0.02:
                rows.append((shop, month, campaign, "" if t >= 120 else round(float(sold), 1)))
    _write_csv(path, ("shop", "month", "campaign", "sales"), rows, bom=True)


_LINEAR = f"mainstem train {_PATH} --target output --backbone linear --optimizer gd --lr 0.01 --epochs 1000"
_DIGITS = (
    f"mainstem train {_PATH} --target label --backbone cnn --optimizer adamw --lr 0.003 --batch-size 64 --epochs 15 "
    "--set training.schedule=cosine"
)
_SERIES = f"mainstem train {_PATH} --target sales --series shop --time month --horizon 12 --future campaign"
_EXAMPLES: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "linear": ("data.csv", _LINEAR, _linear),
    "table": ("table.csv", f"mainstem train {_PATH} --target rent", _table),
    "iris-in-context": ("iris.csv", f"mainstem train {_PATH} --target species --backbone incontext", _iris),
    "reviews": ("reviews.csv", f"mainstem train {_PATH} --target label", _reviews),
    "digits": ("digits", _DIGITS, _digits),
    "series": ("sales.csv", _SERIES, _series),
    "pretrain-tiny": ("tiny.yaml", f"mainstem pretrain -c {_PATH} -o runs/tiny", _tiny),
}
NAMES = tuple(_EXAMPLES)
