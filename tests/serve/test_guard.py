"""Named tokens, rates, other origins, compressed bodies, TLS."""

import hashlib
import shutil
import ssl
import subprocess
import urllib.request

import pytest
from starlette.testclient import TestClient
from test_server_process import start, until_ready

from mainstem.errors import MainstemError
from mainstem.serve import tokens
from mainstem.serve.app import build
from mainstem.serve.guard import Access
from mainstem.serve.manners import Manners, of
from mainstem.serve.models import Models

ROW = {"area": 70.5, "rooms": 3, "城区": "朝阳"}
HASH = hashlib.sha256("隐藏的令牌".encode()).hexdigest()
FILE = f"""
analytics: {{token: "analytics-1", rate: 2, burst: 3}}
hashed: {{sha256: "{HASH}"}}
operations: {{token: "operations-1", admin: true}}
"""


def bearer(secret):
    return {"Authorization": f"Bearer {secret}".encode()}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tokens.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.fixture
def http(file, table_run):
    models = Models({"dear": table_run.path})
    with TestClient(build(models, manners=of(tokens_file=file)), base_url="http://any.example") as made:
        assert models.done.wait(60)
        yield made


def test_tokens_by_name_and_by_hash(http):
    for secret in ("analytics-1", "隐藏的令牌", "operations-1"):
        assert http.get("/ready", headers=bearer(secret)).status_code == 200
    for given in (
        {},
        bearer("analytics-2"),
        bearer(""),
        {"Authorization": "Basic analytics-1"},
        {"Authorization": "analytics-1"},
        bearer("analytics"),
    ):
        answer = http.get("/ready", headers=given)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_only_an_admin_changes_what_is_served(http):
    admin = [route for route in http.app.routes if route.access is Access.ADMIN]
    assert {route.path.rpartition("/")[2] for route in admin} == {"load", "unload", "rollback"}
    for route in admin:
        path = route.path.replace("{name}", "nothing-of-this-name")
        assert http.post(path, headers=bearer("隐藏的令牌")).status_code == 403
        assert http.post(path, headers=bearer("operations-1")).status_code == 404


def test_a_token_over_its_rate_waits(http):
    answers = [http.get("/ready", headers=bearer("analytics-1")) for _ in range(5)]
    assert [a.status_code for a in answers[:3]] == [200] * 3
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"] == "1"
    assert "'analytics' may ask 2 times a second" in answers[-1].json()["error"]
    assert http.get("/ready", headers=bearer("operations-1")).status_code == 200  # the others go on


def test_a_rate_refills():
    token = tokens.Token("t", b"", rate=2, burst=3)
    assert [token.wait(now=10.0) for _ in range(3)] == [0, 0, 0]
    assert token.wait(now=10.0) == pytest.approx(0.5)
    assert token.wait(now=10.25) == pytest.approx(0.25)
    assert token.wait(now=10.5) == 0
    assert [token.wait(now=100.0) for _ in range(4)][:3] == [0, 0, 0]  # no more than the burst, however long it waited
    assert token.wait(now=100.0) > 0
    assert all(tokens.Token("t", b"").wait() == 0 for _ in range(100))


def test_a_header_is_compared_with_every_token(file, monkeypatch):
    """In constant time, and all of them, whichever it is."""
    known, compared = tokens.read(file), []
    real = tokens.hmac.compare_digest
    monkeypatch.setattr(tokens.hmac, "compare_digest", lambda a, b: compared.append(b) or real(a, b))
    for secret in ("analytics-1", "operations-1", "none of them"):
        known.find(f"Bearer {secret}".encode())
        assert len(compared) == 3
        compared.clear()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "names no tokens"),
        ("[1]", "names no tokens"),
        ("a: {b: [", "no YAML"),
        ("a: x", "'a': write {token"),
        ("a: {}", "give 'token' or 'sha256'"),
        ("a: {token: longenough, sha256: x}", "give 'token' or 'sha256'"),
        ("a: {token: short}", "8 characters at least"),
        ("a: {token: 123456789}", "8 characters at least"),
        ("a: {sha256: xyz}", "64 hexadecimal digits"),
        ("a: {token: longenough, rate: 0}", "'rate' is a number above 0"),
        ("a: {token: longenough, rate: .inf}", "'rate' is a number above 0"),
        ("a: {token: longenough, admin: 1}", "'admin' is true or false"),
        ("a: {token: longenough, rat: 1}", "Did you mean 'rate'"),
        ("a: {token: longenough}\nb: {token: longenough}", "same token"),
        ("a: {token: x}\nb: {token: y}", "'b'"),
        ("a: !!python/object/apply:os.system [echo]", "no YAML"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_sentence(tmp_path, text, part):
    path = tmp_path / "tokens.yaml"
    path.write_text(text)
    with pytest.raises(MainstemError, match=part) as raised:
        tokens.read(path)
    assert "longenough" not in str(raised.value)
    with pytest.raises(MainstemError, match="cannot be read"):
        tokens.read(tmp_path / "none.yaml")


def test_pages_of_other_origins_are_not_answered(table_run):
    """A page that posts to this machine (no preflight is asked for it) may not unload a model."""
    models = Models({"dear": table_run.path})
    with TestClient(build(models), base_url="http://127.0.0.1:8000") as http:
        for headers in ({"Origin": "http://attacker.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = http.post("/v2/repository/models/dear/unload", headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (403, "pages of other origins are not answered")
            assert not [name for name in answer.headers if name.startswith("access-control")]
        assert http.get("/health", headers={"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}).status_code == 200
        assert http.options("/predict/dear", headers={"Origin": "http://x.example"}).status_code == 403
        assert http.get("/health", headers={"Host": "127.0.0.1.attacker.example"}).status_code == 403


def test_compressed_bodies_are_not_opened(table_run):
    with TestClient(build(Models({"dear": table_run.path})), base_url="http://127.0.0.1") as http:
        assert http.post("/predict/dear", content=b"x", headers={"Content-Encoding": "gzip"}).status_code == 415


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"token": "t", "tokens_file": "x"}, "two ways to say the same"),
        ({"key": "x"}, "without its certificate"),
        ({"log": "xml"}, "no form of log 'xml'"),
        ({"inputs": True}, "--log json"),
    ],
)
def test_flags_that_make_no_sense_together(given, part):
    with pytest.raises(MainstemError, match=part):
        of(**given)


def test_a_certificate_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "a.pem").write_text("nothing")
    for certificate in (tmp_path / "a.pem", tmp_path / "none.pem"):
        with pytest.raises(MainstemError, match="no certificate with its key"):
            Manners(certificate=certificate).transport()


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_tls(table_run, tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", certificate, *names]
    subprocess.run(make, check=True, capture_output=True)
    process = start(f"dear={table_run.path}", "--port", "0", "--certificate", certificate, "--key", key)
    try:
        _, url = until_ready(process)
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        with urllib.request.urlopen(url.rpartition("/predict")[0] + "/health", timeout=10, context=context) as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        process.communicate(timeout=20)
