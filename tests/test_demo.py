"""The demo, twice in the same folder, with every socket that would leave this machine blocked."""

import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parent.parent / "scripts" / "demo.py"
BLOCK = """
import socket, sys

def only_here(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[0] if event.startswith("socket.get") else arguments[1]
        host = address[0] if isinstance(address, tuple) else address
        if host not in ("127.0.0.1", "localhost", "::1", b"localhost"):
            open(LOG, "a").write(f"{event} {address}\\n")
            raise OSError(f"blocked: {event} {address}")

sys.addaudithook(only_here)
"""


def test_demo_works_twice_without_the_network(tmp_path):
    blocked = tmp_path / "blocked.txt"
    (tmp_path / "sitecustomize.py").write_text(f"LOG = {str(blocked)!r}\n{BLOCK}", encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "FORCE_COLOR": "1"}
    env.pop("NO_COLOR", None)
    for _ in range(2):
        line = [sys.executable, str(DEMO), "--epochs", "1", "--picture", "demo/verify.svg"]
        done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "verified: 32 golden rows" in done.stdout
        assert "\x1b[31m  stage  encode image/pixels\x1b[0m" in done.stdout
        assert (tmp_path / "demo" / "run" / "model" / "seal.json").is_file()
        picture = (tmp_path / "demo" / "verify.svg").read_text(encoding="utf-8")
        assert "refused" in picture
        assert "url(http" not in picture.replace('"', "").replace("'", "")
    assert not blocked.exists(), blocked.read_text(encoding="utf-8")


def test_demo_leaves_folders_of_others_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    done = subprocess.run([sys.executable, str(DEMO), "--out", str(tmp_path)], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1
    assert "choose another folder" in done.stderr
    assert (tmp_path / "thesis.txt").exists()
