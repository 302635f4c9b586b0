"""Models that several tests use, trained once a session on data made here."""

import csv
import random
from pathlib import Path

import pytest
import small_bert
from small_gpt import sentences, writing
from small_pictures import write_pictures

import mainstem as ms
from mainstem import api


def flats(path: Path, rows: int = 160) -> Path:
    """Rooms, area, a district in Chinese, some of them missing; whether the flat is dear (是 or 否), and its rent."""
    rng = random.Random(7)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["area", "rooms", "城区", "dear", "rent"])
        for _ in range(rows):
            area, rooms, district = round(rng.uniform(20, 120), 1), rng.randint(1, 5), rng.choice(["海淀", "朝阳", "浦东"])
            rent = area * {"海淀": 14, "朝阳": 10, "浦东": 12}[district] + 30 * rooms + rng.gauss(0, 60)
            dear = "贵" if rent > 900 else "便宜"
            writer.writerow(["" if rng.random() < 0.05 else area, rooms, "" if rng.random() < 0.05 else district, dear, round(rent, 2)])
    return path


@pytest.fixture(scope="session")
def table_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flats(tmp_path_factory.mktemp("flats") / "flats.csv")


@pytest.fixture(scope="session")
def table_run(table_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ms.Run:
    """A classification of a table by the linear model."""
    inputs = ["area", "rooms", "城区"]
    return ms.train(table_data, "dear", inputs=inputs, backbone="linear", out=tmp_path_factory.mktemp("runs") / "dear")


@pytest.fixture(scope="session")
def number_run(table_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ms.Run:
    """A regression on the same table."""
    inputs = ["area", "rooms", "城区"]
    return ms.train(table_data, "rent", inputs=inputs, backbone="linear", out=tmp_path_factory.mktemp("runs") / "rent")


@pytest.fixture(scope="session")
def writer_run(tmp_path_factory: pytest.TempPathFactory) -> ms.Run:
    """A small GPT that continues sentences."""
    rows = [{"text": text} for text in sentences()]
    return ms.train(rows, task="generation", config=writing("text"), out=tmp_path_factory.mktemp("runs") / "writer")


@pytest.fixture(scope="session")
def picture_run(tmp_path_factory: pytest.TempPathFactory) -> ms.Run:
    """A classification of pictures by a small network."""
    folder = tmp_path_factory.mktemp("runs")
    network = {"name": "image", "columns": ["image"], "backbone": "cnn", "settings": {"size": 8, "width": 4, "depth": 1}}
    config = {"candidates": [{"name": "cnn", "inputs": [network], "training": {"epochs": 2, "batch_size": 12}}]}
    return ms.train(write_pictures(folder / "pictures"), "label", config=config, out=folder / "pixels")


@pytest.fixture(scope="session")
def mood_run(tmp_path_factory: pytest.TempPathFactory) -> ms.Run:
    """A classification of short texts, English and Chinese, with Chinese labels."""
    rng = random.Random(3)
    words = {"好评": ["fine", "lovely", "warm", "很好", "喜欢"], "差评": ["poor", "cold", "dull", "很差", "失望"]}
    rows = [{"text": f"{' '.join(rng.sample(words[mood], 3))} {i}", "mood": mood} for i in range(40) for mood in words]
    network = {"name": "text", "columns": ["text"], "backbone": "ngram", "settings": {"buckets": 256, "dim": 8}}
    config = {"candidates": [{"name": "ngram", "inputs": [network], "training": {"epochs": 6, "lr": 0.02}}]}
    return ms.train(rows, "mood", inputs=["text"], config=config, out=tmp_path_factory.mktemp("runs") / "mood")


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT as the hub keeps it."""
    return small_bert.save(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture(scope="session")
def embedder(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ms.Model:
    """The same, exported alone."""
    return api.export(f"hf:{encoder_folder}", tmp_path_factory.mktemp("embedder") / "model")


LONGEST = ("test_readme.py", "test_demo.py", "test_base_install.py")


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
