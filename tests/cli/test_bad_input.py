"""What a user can get wrong, through the command line: exit code 2, one sentence that says where, nothing half-written."""

import json
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mainstem.cli import main

HEADER = "size,city,price,good"


def lines(rows=60):
    rng = random.Random(1)
    made = [(rng.randint(20, 90), rng.choice(["Bern", "Basel", "苏州"])) for _ in range(rows)]
    return [f"{size},{city},{size * 3 + rng.random():.2f},{'yes' if size > 50 else 'no'}" for size, city in made]


def table(*rows, header=HEADER):
    return "\n".join([header, *rows]) + "\n"


def png(width, height, body=None):
    """A PNG with a good header and whatever body."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100) if body is None else body) + chunk(b"IEND", b"")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_text(table(*lines()), encoding="utf-8")
    return tmp_path


@pytest.fixture
def refused(capfd):
    """Runs a command line that has to be refused; returns what it said."""

    def run(line, *parts):
        before = listing()
        capfd.readouterr()
        code = main(line.split() if isinstance(line, str) else [str(a) for a in line])
        out, err = capfd.readouterr()
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err
        told = [text for text in err.splitlines() if text.startswith("error: ")]
        assert len(told) == 1, err
        assert err.endswith(told[0] + "\n")  # it is the last thing said
        assert told[0].rstrip()[-1] in ".?!"
        for part in parts:
            assert part in told[0]
        assert listing() == before
        return told[0]

    return run


def listing():
    return sorted(str(p) for p in Path(".").rglob("*"))


# --- files -----------------------------------------------------------------------------------------------------------

FILES = {
    "empty": ("a.csv", b"", ["a.csv", "the file is empty"]),
    "blank": ("a.csv", b"\n \n\n", ["a.csv", "the file is empty"]),
    "header_only": ("a.csv", HEADER.encode(), ["a.csv", "not a single row"]),
    "undecodable": ("a.csv", table(*lines()).encode() + b"7,\xff\xfe\x80,8,yes\n", ["a.csv", "undecodable", "line 62"]),
    "ragged": ("a.csv", table(*lines(), "1,2", "1,2,3,4,5").encode(), ["a.csv", "line 62 has 2", "line 63 has 5"]),
    "nul": ("a.csv", table(*lines(), "1,\0,3,yes").encode(), ["a.csv", "line 62", "NUL"]),
    "open_quote": ("a.csv", table(*lines(), '1,"Bern,3,yes', *lines()).encode(), ["a.csv", "line 62", "never closed"]),
    "twice": ("a.csv", table("1,2,3,4", header="size,size,city,good").encode(), ["a.csv", "'size' more than once"]),
    "broken_jsonl": ("a.jsonl", b'{"good": 1}\n{"good": \n{"good": 2}\n', ["a.jsonl", "line 2"]),
    "jsonl_of_lists": ("a.jsonl", b"[1, 2]\n[3, 4]\n", ["a.jsonl", "row 1 is a list"]),
    "no_json": ("a.json", b"{good}", ["a.json"]),
    "no_xlsx": ("a.xlsx", b"size,good\n1,2\n", ["a.xlsx"]),
    "old_xls": ("a.xls", b"\xd0\xcf\x11\xe0", ["a.xls", "Save the spreadsheet as .xlsx"]),
    "no_parquet": ("a.parquet", b"PAR1 this is none PAR1", ["a.parquet"]),
    "unknown_ending": ("a.doc", b"words", ["a.doc", "do not know how to read .doc files"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_read(here, refused, name):
    file, content, parts = FILES[name]
    (here / file).write_bytes(content)
    refused(f"train {file} --target good", *parts)
    refused(f"inspect {file}", *parts)


def test_a_file_that_is_cut_short(here, refused):
    import pandas

    frame = pandas.read_csv(here / "good.csv")
    for name, write in (("a.parquet", frame.to_parquet), ("a.xlsx", frame.to_excel)):
        write(here / name, index=False)
        data = (here / name).read_bytes()
        (here / name).write_bytes(data[: len(data) // 2])
        refused(f"train {name} --target good", name)


def test_no_file_and_an_empty_folder(here, refused):
    (here / "pictures").mkdir()
    refused("train god.csv --target good", "god.csv", "no such file", "Did you mean 'good.csv'?")
    refused("train no/such/file.csv --target good", "no/such/file.csv")
    refused("train pictures --target label", "pictures")
    refused("predict pictures good.csv", "pictures", "holds no model")
    refused("verify good.csv", "good.csv", "holds no model")


# --- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--target god", ["good.csv", "the target 'god' does not exist", "Did you mean 'good'?"]),
        ("", ["good.csv", "no target is named", "good"]),
        ("--target good --input citty", ["good.csv", "the input 'citty' does not exist", "Did you mean 'city'?"]),
        ("--target good --input good --input size", ["good.csv", "'good' is both target and input"]),
        ("--target good --column size=numbre", ["numbre", "Did you mean 'number'?"]),
        ("--target good --column sise=number", ["sise", "Did you mean 'size'?"]),
        ("--target good --column city=number", ["good.csv:2 column 'city'", "expected a number, found '"]),
        ("--target city --task regression", ["good.csv:2 column 'city'", "no numbers"]),
        ("--target good --target city", ["good.csv", "'city' holds 'Basel'"]),
        ("--target good --group plase", ["good.csv", "no column 'plase'"]),
        ("--target good --time city", ["good.csv:2 column 'city'", "expected a date or a number"]),
        ("--target good --task clasification", ["clasification", "Did you mean 'classification'?"]),
        ("--target good --valid none.csv", ["none.csv", "no such file"]),
        ("--target good --encoding utf-9", ["utf-9"]),
    ],
)
def test_columns_that_do_not_fit(here, refused, line, parts):
    refused(f"train good.csv {line}", *parts)


@pytest.mark.parametrize(
    ("answers", "parts"),
    [
        (["yes"] * 60, ["one class only", "'yes'"]),
        ([""] * 60, ["'good' is missing in every row"]),
        (["1.5"] * 60, ["the same number in every row"]),
        ([str(i) for i in range(59)] + ["1e300"], ["1e+300", "mark for a missing value"]),
        ([str(i) + "x" for i in range(60)], ["60 different values in 60 rows"]),
    ],
)
def test_answers_that_cannot_be_learned(here, refused, answers, parts):
    rows = [line.rsplit(",", 1)[0] + "," + answer for line, answer in zip(lines(), answers, strict=True)]
    (here / "a.csv").write_text(table(*rows), encoding="utf-8")
    refused("train a.csv --target good", *parts)


def test_nothing_to_learn_from(here, refused):
    (here / "a.csv").write_text("a,b,good\n" + "1,,yes\n1,,no\n" * 30)
    refused("train a.csv --target good", "a.csv", "no column to learn from", "missing in every row")


# --- flags and configs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--tagret good", ["--tagret", "--target"]),
        ("--target good --backbone mpl", ["no backbone is named 'mpl'", "Did you mean 'mlp'?"]),
        ("--target good --backbone cnn", ["'cnn' reads image, and the data holds table"]),
        ("--target good --backbone hf:no/such/folder/here", ["no/such/folder/here"]),
        ("--target good --backbone ./nothing", ["./nothing", "does not exist"]),
        ("--target good --backbone mlp --adapt lora", ["mlp", "lora"]),
        ("--target good --backbone mlp --adapt probe", ["mlp", "probe"]),
        ("--target good --adapt freeze", ["adapt", "freeze"]),
        ("--target good --lr abc", ["--lr", "'abc'"]),
        ("--target good --lr -1", ["lr", "-1"]),
        ("--target good --lr nan", ["lr", "nan"]),
        ("--target good --time-limit soon", ["--time-limit", "'soon'"]),
        ("--target good --epochs -3", ["epochs", "-3"]),
        ("--target good --epochs 0", ["epochs", "0"]),
        ("--target good --epochs 1.5", ["--epochs"]),
        ("--target good --batch-size 0", ["batch_size", "0"]),
        ("--target good --optimizer adma", ["adma", "adam"]),
        ("--target good --backbone mlp --schedule cosin", ["cosin", "cosine"]),
        ("--target good --set split.test=2", ["split.test", "2"]),
        ("--target good --set training.lrr=2", ["lrr", "Did you mean 'lr'?"]),
        ("--target good --set training.loss=msee", ["loss"]),
        ("--target good --class-weight even", ["class_weight", "even"]),
        ("--target good --replay none", ["replay", "none"]),
        ("--target good -c none.yaml", ["none.yaml"]),
        ("--target good -c broken.yaml", ["broken.yaml"]),
        ("--target good -c list.yaml", ["list.yaml"]),
        ("--target good -c keys.yaml", ["keys.yaml", "epoch"]),
        ("--target good -c good.csv", ["good.csv"]),
        ("--target good -o good.csv", ["good.csv"]),
        ("--target good -o good.csv/run", ["good.csv/run"]),
        ("--target good -o old", ["old", "exists already"]),
    ],
)
def test_flags_that_make_no_sense(here, refused, line, parts):
    (here / "broken.yaml").write_text("training: [1, {")
    (here / "list.yaml").write_text("- 1\n- 2\n")
    (here / "keys.yaml").write_text("training:\n  epoch: 3\n")
    (here / "old").mkdir()
    (here / "old/kept.txt").write_text("mine")
    refused(f"train good.csv {line}", *parts)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_that_cannot_be_read(here, refused):
    for name in ("cat", "dog"):
        (here / "pets" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.full((20, 20, 3), 40 + 100 * (name == "dog") + i, np.uint8)
            Image.fromarray(pixels).save(here / "pets" / name / f"{i}.png")
    bad = here / "pets/dog/bad.png"
    for content, part in (
        (b"no picture", "no picture that mainstem reads"),
        (b"", "no picture"),
        (png(20, 20), "corrupt or cut off"),
        (png(30_000, 30_000), "30000 × 30000 pixels, more than 40,000,000"),
        ((here / "pets/dog/1.png").read_bytes()[:60], "corrupt or cut off"),
    ):
        bad.write_bytes(content)
        refused("train pets --target label --backbone cnn", "bad.png", part)
    bad.unlink()
    (here / "a.csv").write_text(
        "file,kind\n" + "".join(f"pets/{n}/{i}.png,{n}\n" for n in ("cat", "dog") for i in range(12)) + "pets/x.png,cat\n"
    )
    refused("train a.csv --target kind", "a.csv:26 column 'file'", "no readable picture 'pets/x.png'")


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_as_it_was_sealed(here, refused, table_run, table_data):
    shutil.copytree(table_run.path / "model", here / "model")
    for name in ("onnx/head.onnx", "mainstem.json", "MANIFEST.json", "replay/replay.json", "state.safetensors"):
        whole = (here / "model" / name).read_bytes()
        (here / "model" / name).write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
        for verb in ("verify model", f"predict model {table_data}", f"evaluate model {table_data}", "serve m=model --port 0"):
            refused(verb, "model")
        (here / "model" / name).unlink()
        refused("verify model", "model", name.split("/")[-1])
        (here / "model" / name).write_bytes(whole)
    (here / "model/extra.py").write_text("print('no')")
    refused("verify model", "extra.py: not listed")


def test_rows_that_a_model_cannot_take(here, refused, table_run):
    (here / "a.csv").write_text("area,romms,城区\n50,2,海淀\n", encoding="utf-8")
    refused(["predict", table_run.path, "a.csv"], "a.csv", "the column 'rooms' is missing", "Did you mean 'romms'?")
    refused(["evaluate", table_run.path, "a.csv"], "a.csv", "'rooms'")
    (here / "b.csv").write_text("area,rooms,城区,dear\n50,two,海淀,贵\n", encoding="utf-8")
    refused(["predict", table_run.path, "b.csv"], "b.csv:2 column 'rooms'", "expected a number, found 'two'")
    refused(["predict", table_run.path, "b.csv", "-o", "x.docx"], "x.docx")
    refused(["evaluate", table_run.path, "b.csv"], "b.csv:2 column 'rooms'")
    (here / "d.csv").write_text("area,rooms,城区\n50,2,海淀\n", encoding="utf-8")
    refused(["evaluate", table_run.path, "d.csv"], "d.csv", "'dear' is missing")
    refused(["predict", table_run.path, "d.csv", "-o", "d.csv/x.csv"], "x.csv")
    refused(["predict", table_run.path, "d.csv", "--on-error", "ignore"], "--on-error", "ignore")
    refused(["verify", table_run.path, "--url", "http://127.0.0.1:9/predict/x"], "127.0.0.1:9", "cannot be asked")
    refused(["verify", table_run.path, "--url", "nonsense"], "nonsense")


# --- the machine -----------------------------------------------------------------------------------------------------


def test_a_full_disk(here):
    """No file may grow beyond 3 kB: a run ends with one sentence, and what it was writing does not stay half-done."""
    line = "train good.csv --target good --input size --backbone linear -o run"
    done = subprocess.run(
        [sys.executable, "-m", "mainstem", *line.split()],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "the disk is full" in done.stderr
    assert not (here / "run/model").exists()
    assert [p.name for p in here.rglob("*.tmp-*")] == []


@pytest.mark.parametrize(
    ("line", "blocked", "parts"),
    [
        ("train good.csv --target good", ["sklearn"], ["mainstem[tables]"]),
        ("train good.csv --target good --backbone mlp", ["torch"], ["mlp", "mainstem[train]"]),
        ("train a.parquet --target good", ["pyarrow"], ["Parquet", "mainstem[tables]"]),
        ("inspect a.xlsx", ["openpyxl"], ["mainstem[tables]"]),
    ],
)
def test_an_extra_that_is_not_installed(here, line, blocked, parts):
    (here / "a.parquet").write_bytes(b"PAR1")
    (here / "a.xlsx").write_bytes(b"PK")
    block = "; ".join(f"sys.modules['{name}'] = None" for name in blocked)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {block}; from mainstem.cli import main; sys.exit(main())", *line.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    told = done.stderr.splitlines()[-1]
    assert told.startswith("error: ")
    for part in parts:
        assert part in told
    assert "pip install" in told
    assert sorted(p.name for p in here.iterdir()) == ["a.parquet", "a.xlsx", "good.csv"]


def test_a_folder_that_may_not_be_written(here, refused):
    if os.geteuid() == 0:  # root may write anywhere: a folder that cannot exist stands in
        refused("train good.csv --target good -o /proc/nothing/run", "/proc/nothing")
        return
    (here / "closed").mkdir(mode=0o500)
    refused("train good.csv --target good -o closed/run", "closed/run")


def test_standard_input_that_holds_nothing():
    done = subprocess.run([sys.executable, "-m", "mainstem", "inspect", "-"], input=b"", capture_output=True)
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    assert json.dumps("stdin")[1:-1] in done.stderr.decode()
