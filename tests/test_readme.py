"""Every bash and python block of both READMEs is run, in order, in one folder; what a console block shows is what is printed."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN = re.compile(r"^```console\n\$ (.*?)\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
PORT = "8421"  # as the README says it
CURL = """#!{python}
import sys, urllib.request
sent = sys.argv[sys.argv.index("-d") + 1].encode() if "-d" in sys.argv else None
address = next(a for a in sys.argv[1:] if a.startswith("localhost"))
try:
    print(urllib.request.urlopen("http://" + address, sent).read().decode())
except OSError:
    sys.exit(22)
"""


@pytest.fixture
def commands(tmp_path):
    """A folder for PATH with this environment's command, and a curl where the machine has none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "mainstem").symlink_to(Path(sys.executable).parent / "mainstem")
    if not shutil.which("curl"):
        (folder / "curl").write_text(CURL.format(python=sys.executable), encoding="utf-8")
        (folder / "curl").chmod(0o755)
    return folder


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_readme_runs(tmp_path, commands):
    work = tmp_path / "work"
    work.mkdir()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = BLOCK.findall(text)
    assert {language for language, _ in found} == {"bash", "python"}
    port = free_port()
    env = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    for language, code in found:
        code = code.replace(PORT, port)
        line = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-W", "error::FutureWarning", "-c", code]
        process = subprocess.Popen(
            line, cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", start_new_session=True
        )
        try:
            said, _ = process.communicate(timeout=300)
        finally:
            end(process)
        assert process.returncode == 0, f"{code}\n{said}"
        assert "Warning" not in said, said
    for typed, shown in SHOWN.findall(text):
        done = subprocess.run(typed, shell=True, cwd=work, env=env, capture_output=True, text=True, encoding="utf-8")
        assert (done.returncode, done.stderr.strip()) == (2, shown)
    for made in ("runs/data/line.png", "predictions.csv", "sevens.csv", "runs/table/model/seal.json", "runs/reviews-2/model/seal.json"):
        assert (work / made).is_file(), made


def end(process: subprocess.Popen[str]) -> None:
    """End what a block left running in the background."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def test_both_languages_show_the_same():
    one, other = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert BLOCK.findall(one) == BLOCK.findall(other)
    assert SHOWN.findall(one) == SHOWN.findall(other)


def test_links_lead_somewhere():
    for name in ("README.md", "README.zh-CN.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{name}: {link}"
