"""Pictures by their paths: folders, tables, what is beside them."""

import pytest
from PIL import Image

from mainstem.data import pictures
from mainstem.data.texts import BETWEEN, Pairs, Texts
from mainstem.errors import MainstemError


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/.hidden.png"):
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "all" / name)
    (tmp_path / "all" / "notes.md").write_text("no picture")
    return tmp_path / "all"


def test_a_folder_is_listed_in_order_whatever_its_classes(folder):
    assert pictures.is_folder(folder)
    assert pictures.of_folder(folder).names == ["a/1.png", "b/2.png"]
    (folder / "table.csv").write_text("x\n1\n")
    with pytest.raises(MainstemError, match=r"Give the table: .*table\.csv"):
        pictures.is_folder(folder)
    (folder / "none").mkdir()
    assert not pictures.is_folder(folder / "none")


@pytest.mark.parametrize("columns", [("image", "title"), ("title", "image")])
def test_a_table_gives_pictures_and_the_texts_beside_them(folder, columns):
    table = folder / "table.csv"
    table.write_text("title,image\none,a/1.png\n,a/1.png\ntwo,b/2.png\n")
    texts = Texts(table, columns)
    assert sorted(pictures.holds_pictures(texts)) == [False, True]
    listed = pictures.of_table(texts)
    assert (listed.base, listed.names, listed.texts) == (folder, ["a/1.png", "b/2.png"], ["one", "two"])
    alone = pictures.of_table(Texts(table, wanted=("image",)))  # the column is found
    assert (alone.names, alone.texts) == (["a/1.png", "a/1.png", "b/2.png"], [])


def test_pairs_are_whole_or_none(tmp_path):
    (tmp_path / "pairs.csv").write_text(f"a,b\none,uno{BETWEEN}!\ntwo,\n,tre\nfour,quattro\n")
    pairs = Pairs(tmp_path / "pairs.csv", ("a", "b"))
    assert [row.texts for row in pairs.read()] == [[f"one{BETWEEN}uno !"], [], [], [f"four{BETWEEN}quattro"]]
    *_, third, _ = (row.following() for row in pairs.read())
    assert [row.texts for row in pairs.read(third)] == [[f"four{BETWEEN}quattro"]]
