"""The Open Inference Protocol v2, asked by Triton's own client and by hand."""

import base64
import dataclasses
import io
import shutil

import httpx
import numpy as np
import pytest
from live_server import live
from PIL import Image
from starlette.testclient import TestClient

from mainstem.errors import MainstemError
from mainstem.serve.app import build
from mainstem.serve.manners import Manners
from mainstem.serve.models import Models
from mainstem.serve.protocols import _tensors

ROWS = [{"area": 70.5, "rooms": 3, "城区": "朝阳"}, {"area": 33, "rooms": 1, "城区": "海淀"}, {"area": None, "rooms": 2, "城区": ""}]
FINE = {"name": "area", "datatype": "FP32", "shape": [1], "data": [50]}
OTHERS = [
    {"name": "rooms", "datatype": "INT32", "shape": [1], "data": [2]},
    {"name": "城区", "datatype": "BYTES", "shape": [1], "data": ["海淀"]},
]
KINDS = {"area": ("FP32", np.float32), "rooms": ("INT64", np.int64), "城区": ("BYTES", object)}


@pytest.fixture(scope="module")
def address(table_run, number_run, picture_run):
    with live({"dear": table_run.path, "rent": number_run.path, "pixels": picture_run.path}) as made:
        yield made


@pytest.fixture(scope="module")
def triton(address):
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]", exc_type=ImportError)
    with http.InferenceServerClient(address.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="module")
def http(table_run):
    models = Models({"dear": table_run.path})
    with TestClient(build(models), base_url="http://127.0.0.1") as made:
        assert models.done.wait(60)
        yield made


def tensors(rows, *, binary):
    from tritonclient.http import InferInput

    made = []
    for name, (datatype, dtype) in KINDS.items():
        array = np.array([np.nan if row[name] is None else row[name] for row in rows], dtype)
        made.append(InferInput(name, [len(rows)], datatype))
        made[-1].set_data_from_numpy(array, binary_data=binary)
    return made


def test_health_and_metadata(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("dear")
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    about = triton.get_model_metadata("dear")
    assert [(each["name"], each["datatype"], each["shape"]) for each in about["inputs"]] == [
        ("area", "FP64", [-1]),
        ("rooms", "FP64", [-1]),
        ("城区", "BYTES", [-1]),
    ]
    assert [each["name"] for each in about["outputs"]] == ["prediction", "score", "scores"]
    assert triton.get_model_metadata("dear", about["versions"][0]) == about


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_strings_and_numbers_answer_as_predict_does(triton, table_run, binary, back):
    from tritonclient.http import InferRequestedOutput

    rows = ROWS if binary else ROWS[:2]  # JSON has no NaN
    expected = table_run.model.predict(rows)
    outputs = [InferRequestedOutput(name, binary_data=back) for name in ("prediction", "score", "scores")]
    answer = triton.infer("dear", tensors(rows, binary=binary), outputs=outputs, request_id="seven")
    told = [value.decode() if isinstance(value, bytes) else value for value in answer.as_numpy("prediction")]
    assert told == [row["prediction"] for row in expected]
    assert answer.as_numpy("score") == pytest.approx([row["score"] for row in expected], abs=1e-6)
    scores = [list(row["scores"].values()) for row in expected]
    assert answer.as_numpy("scores") == pytest.approx(np.array(scores), abs=1e-6)
    about = answer.get_response()
    assert (about["id"], about["model_name"]) == ("seven", "dear")
    assert "digest" in about["parameters"]


def test_numbers_come_as_numbers(triton, number_run):
    answer = triton.infer("rent", tensors(ROWS, binary=True))  # no outputs named: all of them, in binary
    expected = number_run.model.predict(ROWS)
    for name in ("prediction", "low", "high"):
        assert answer.as_numpy(name) == pytest.approx([row[name] for row in expected], rel=1e-5)
    assert answer.as_numpy("score") is None


def test_pictures_come_as_the_bytes_of_their_files(triton, address, picture_run):
    from tritonclient.http import InferInput

    files = []
    for shade in (20, 200):
        pixels = np.full((8, 8, 3), 60, np.uint8)
        pixels[:4] += np.uint8(shade // 2)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        files.append(stream.getvalue())
    given = InferInput("image", [2], "BYTES")
    given.set_data_from_numpy(np.array(files, object))
    told = [value.decode() for value in triton.infer("pixels", [given]).as_numpy("prediction")]
    coded = [base64.b64encode(data).decode() for data in files]
    assert told == [row["prediction"] for row in picture_run.model.predict([{"image": data} for data in files])]
    body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2, 1], "data": coded}]}
    assert httpx.post(f"{address}/v2/models/pixels/infer", json=body).json()["outputs"][0]["data"] == told


def test_what_is_wrong_is_told_to_the_client(triton):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="Did you mean 'dear'"):
        triton.infer("deer", tensors(ROWS, binary=True))
    with pytest.raises(InferenceServerException, match=r"served in version .*, not '99'"):
        triton.infer("dear", tensors(ROWS, binary=True), model_version="99")
    with pytest.raises(InferenceServerException, match="'sequence_id' is not supported"):
        triton.infer("dear", tensors(ROWS, binary=True), sequence_id=3)
    with pytest.raises(InferenceServerException, match="compressed"):
        triton.infer("dear", tensors(ROWS, binary=True), request_compression_algorithm="gzip")
    with pytest.raises(InferenceServerException, match="unknown option 'beams'"):
        triton.infer("dear", tensors(ROWS, binary=True), parameters={"beams": 3})


@pytest.mark.parametrize(
    ("inputs", "part"),
    [
        ([], "a list of tensors"),
        ("x", "a list of tensors"),
        ([1], "an input has a name"),
        ([{**FINE, "more": 1}], "an input has a name"),
        ([{**FINE, "datatype": "FP128"}], "there is no datatype 'FP128'"),
        ([{**FINE, "shape": []}], "list of whole numbers"),
        ([{**FINE, "shape": [True]}], "list of whole numbers"),
        ([{**FINE, "shape": [-1]}], "list of whole numbers"),
        ([{**FINE, "shape": [1, 2]}], "one value a row"),
        ([{**FINE, "data": 3}], "the data are a list"),
        ([{**FINE, "data": [1, 2]}], "2 values for 1 rows"),
        ([{**FINE, "data": ["wide"]}], "not of the datatype FP32"),
        ([{**FINE, "data": [True]}], "not of the datatype FP32"),
        ([{**FINE, "parameters": {"binary_data_size": 4}}], "0 bytes of binary data left"),
        ([FINE, FINE], "comes twice"),
        ([FINE, {**OTHERS[0], "shape": [2], "data": [1, 2]}], "same number of rows"),
        ([{**FINE, "name": "acre"}], "no input 'acre'"),
        ([FINE], "rooms"),
    ],
)
def test_tensors_that_are_none_are_refused_in_one_sentence(http, inputs, part):
    answer = http.post("/v2/models/dear/infer", json={"inputs": inputs})
    assert answer.status_code in (400, 422), answer.text
    assert part in answer.json()["error"]


def test_requests_by_hand(http):
    fine = {"inputs": [FINE, *OTHERS]}
    answer = http.post("/v2/models/dear/infer", json=fine)
    assert answer.status_code == 200
    assert answer.headers["x-model-version"]
    assert {each["name"] for each in answer.json()["outputs"]} == {"prediction", "score", "scores"}
    assert http.post("/v2/models/dear/infer", json={**fine, "outputs": [{"name": "none"}]}).status_code == 422
    assert (
        http.post("/v2/models/dear/infer", json={**fine, "outputs": [{"name": "score", "parameters": {"classification": 2}}]}).status_code
        == 422
    )
    for header in ("-1", "x", "999999", ""):
        assert http.post("/v2/models/dear/infer", json=fine, headers={_tensors.HEADER: header}).status_code == 400
    assert http.post("/v2/models/dear/infer", content=b"{}" + b"junk", headers={_tensors.HEADER: "2"}).status_code == 400


def test_binary_data_that_lie_about_their_size():
    head = {"name": "a", "datatype": "BYTES", "shape": [2]}
    good = (3).to_bytes(4, "little") + b"abc" + (0).to_bytes(4, "little")
    for data in (good[:-1], good + b"x", good[:7], b"\xff" * 8, b""):
        with pytest.raises(MainstemError, match="do not hold 2 values"):
            _tensors.read([{**head, "parameters": {"binary_data_size": len(data)}}], memoryview(data))
    read = _tensors.read([{**head, "parameters": {"binary_data_size": len(good)}}], memoryview(good))
    assert read["a"].values == [b"abc", b""]
    with pytest.raises(MainstemError, match="belong to no input"):
        _tensors.read([{**head, "parameters": {"binary_data_size": len(good)}}], memoryview(good + b"more"))


class Fake(Models):
    """Models whose life cycle is only noted down."""

    def load(self, name, folder):
        self.told = (*getattr(self, "told", ()), ("load", name, folder))
        if "broken" in name:
            raise MainstemError("this does not answer as the measured model did")
        self.by_name.setdefault(name, dataclasses.replace(next(iter(self)), name=name))

    def unload(self, name):
        self.told = (*getattr(self, "told", ()), ("unload", name))
        del self.by_name[name]

    async def rollback(self, name):
        self.told = (*getattr(self, "told", ()), ("rollback", name))


def test_the_repository(table_run, tmp_path):
    models = Fake({"dear": table_run.path})
    (tmp_path / "new").mkdir()
    (tmp_path / "broken").mkdir()
    with TestClient(build(models, manners=Manners(repository=tmp_path)), base_url="http://127.0.0.1") as http:
        assert models.done.wait(60)
        listed = http.post("/v2/repository/index").json()
        assert [(each["name"], each["state"]) for each in listed] == [("dear", "READY")]
        assert http.post("/v2/repository/index", json={"ready": True}).json() == listed
        assert http.post("/v2/repository/models/dear/load", json={}).json()["name"] == "dear"
        assert http.post("/v2/repository/models/new/load").status_code == 200
        assert http.post("/v2/models/new/infer", json={"inputs": [FINE, *OTHERS]}).status_code == 200
        assert http.post("/v2/repository/models/new/unload", json={"parameters": {"unload_dependents": False}}).status_code == 200
        assert http.post("/v2/models/new/infer", json={"inputs": [FINE, *OTHERS]}).status_code == 404
        assert http.post("/v2/repository/models/dear/rollback").status_code == 200
        assert models.told == (
            ("load", "dear", models.by_name["dear"].folder),
            ("load", "new", tmp_path / "new"),
            ("unload", "new"),
            ("rollback", "dear"),
        )
        refused = http.post("/v2/repository/models/broken/load")
        assert (refused.status_code, "measured model" in refused.json()["error"]) == (422, True)
        for name in ("nowhere", "..", "%2e%2e", "..%2f..%2fetc", "a%00b", "NEW"):
            assert http.post(f"/v2/repository/models/{name}/load").status_code in (404, 405, 422)
        told = http.post("/v2/repository/models/new/load", json={"parameters": {"config": "{}", "file:1/m.onnx": "AA"}})
        assert (told.status_code, "without parameters" in told.json()["error"]) == (422, True)


def test_the_repository_by_its_own_client(triton, table_run):
    assert {each["name"] for each in triton.get_model_repository_index()} == {"dear", "rent", "pixels"}


def test_versions_come_and_go_while_it_answers(table_run, number_run, tmp_path):
    """The life cycle over HTTP: another version, back, one that does not reproduce, and gone."""
    shutil.copytree(number_run.path / "model", tmp_path / "more")
    with TestClient(build(Models({"dear": table_run.path}), manners=Manners(repository=tmp_path)), base_url="http://127.0.0.1") as http:
        assert http.app.state.models.done.wait(60)
        asked = {"rows": ROWS}
        first = http.post("/predict/dear", json=asked)
        assert len(first.headers["x-model-digest"]) == 64
        assert http.post("/v2/repository/models/dear/load").json()["version"] != first.headers["x-model-version"]
        second = http.post("/predict/dear", json=asked)
        assert second.json() == first.json()
        assert second.headers["x-model-version"] != first.headers["x-model-version"]
        assert http.post("/v2/repository/models/dear/rollback").json()["version"] == first.headers["x-model-version"]
        assert http.post("/predict/dear", json=asked).headers["x-model-version"] == first.headers["x-model-version"]
        assert http.post("/v2/repository/models/more/load").status_code == 200
        assert http.post("/predict/more", json=asked).status_code == 200
        assert "/predict/more" in http.get("/openapi.json").json()["paths"]
        (tmp_path / "more" / "card.md").write_text("changed")
        refused = http.post("/v2/repository/models/more/load")
        assert (refused.status_code, "not as it was sealed" in refused.json()["error"]) == (422, True)
        assert http.post("/predict/more", json=asked).status_code == 200  # the old one stays
        assert http.post("/v2/repository/models/more/unload").status_code == 200
        assert http.post("/predict/more", json=asked).status_code == 404
        assert http.post("/v2/repository/models/more/rollback").status_code == 404
