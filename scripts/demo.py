"""The whole way on real data, then what it is for: the resize filter is altered, and `mainstem verify` refuses.

    python scripts/demo.py [--out demo] [--epochs 3] [--picture docs/verify.svg]

Reads nothing from the network. Everything it makes lies in the folder of --out, which is made anew each time.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

import mainstem

NEW_EVERY = 10  # of the pictures every tenth is left out of training, and asked for later
READY_WITHIN = 60  # seconds
MADE_HERE = ".made-by-demo"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where verify passed as installed and refused as altered."""
    parser = argparse.ArgumentParser(description="Train, evaluate, seal, serve; then alter the preprocessing and see verify refuse.")
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--picture", type=Path, metavar="SVG", help="draw the refusal")
    asked = parser.parse_args(arguments)
    out: Path = asked.out
    make_folder(out)

    title("1. Data: written digits, every tenth kept aside as the pictures of tomorrow")
    run(["example", "digits", "-o", str(out)])
    data, new, model = out / "digits", out / "new", out / "run"
    keep_aside(data, new)

    title("2. Train, compare with held-out rows, seal")
    flags = f"--target label --backbone cnn --optimizer adamw --lr 0.003 --batch-size 64 --epochs {asked.epochs}"
    run(["train", str(data), *flags.split(), "--set", "training.schedule=cosine", "-o", str(model)])

    title("3. Evaluate on the pictures of tomorrow")
    run(["evaluate", str(model), str(new)])

    title("4. Verify: the golden rows are answered here as they were when the model was measured")
    run(["verify", str(model)])

    title("5. Serve, and ask over HTTP")
    with served(model) as address:
        ask(address, next(new.glob("7/*.png")))
        run(["verify", str(model), "--url", address])

    title("6. The point: the same model, with another resize filter in the installed preprocessing")
    changed = alter(out / "altered")
    print(f"{changed}: bilinear now means bicubic. It would still predict, without a word, and not what was measured.")
    refusal = refused(model, out / "altered")

    title("Where everything lies")
    places = {"data": data, "pictures of tomorrow": new, "run": model, "model": model / "model", "altered preprocessing": changed}
    if asked.picture:
        draw(refusal, f"mainstem verify {model}", asked.picture)
        places["picture"] = asked.picture
    for what, place in places.items():
        print(f"  {what:<23}{place}")
    return 0


def make_folder(out: Path) -> None:
    """An empty folder; one that this script made before is emptied, any other is left alone."""
    if out.exists() and any(out.iterdir()) and not (out / MADE_HERE).exists():
        sys.exit(f"{out} holds something that is not of this demo: choose another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MADE_HERE).touch()


def title(text: str) -> None:
    """A heading between the steps."""
    print(f"\n── {text}", flush=True)


def command(arguments: Sequence[str]) -> list[str]:
    """`mainstem ARGUMENTS` of this very environment, shown as one would type it."""
    print(f"$ mainstem {shlex.join(arguments)}", flush=True)
    return [sys.executable, "-m", "mainstem", *arguments]


def run(arguments: Sequence[str]) -> None:
    """One command that must succeed."""
    code = subprocess.run(command(arguments)).returncode
    if code:
        sys.exit(f"this command should have succeeded, and exited {code}")


def keep_aside(data: Path, new: Path) -> None:
    """Move every tenth picture of each class to `new`."""
    for folder in sorted(data.iterdir()):
        (new / folder.name).mkdir(parents=True)
        for picture in sorted(folder.iterdir())[::NEW_EVERY]:
            picture.rename(new / folder.name / picture.name)


@contextmanager
def served(model: Path) -> Iterator[str]:
    """A server on a free port, ended afterwards; the address of its one model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(command(["serve", f"digits={model}", "--port", str(port)]), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until_ready(server, f"http://127.0.0.1:{port}/ready")
        yield f"http://127.0.0.1:{port}/predict/digits"
    finally:
        server.terminate()
        server.wait(30)


def wait_until_ready(server: subprocess.Popen[bytes], address: str) -> None:
    """Return once the server has replayed its models and says ready."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended with code {server.returncode}: {server.communicate()[1].decode()}")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"the server was not ready within {READY_WITHIN} s")


def ask(address: str, picture: Path) -> None:
    """One request over HTTP, shown."""
    row = {"image": base64.b64encode(picture.read_bytes()).decode()}
    print(f'$ curl {address} -d \'{{"rows": [{{"image": "{row["image"][:12]}…"}}]}}\'   # {picture}')
    request = urllib.request.Request(address, json.dumps({"rows": [row]}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.loads(response.read())["predictions"][0]
    print(f"prediction {answer['prediction']}, score {answer['score']:.3f}")


def alter(folder: Path) -> Path:
    """A copy of the installed package whose bilinear filter is bicubic; the installed one stays as it is."""
    package = folder / "mainstem"
    shutil.copytree(Path(mainstem.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    module = package / "modalities" / "image.py"
    source = module.read_text(encoding="utf-8")
    before, after = '"bilinear": Resampling.BILINEAR', '"bilinear": Resampling.BICUBIC'
    if source.count(before) != 1:
        sys.exit(f"{module} has no line {before} to alter")
    module.write_text(source.replace(before, after), encoding="utf-8")
    return module


def refused(model: Path, altered: Path) -> str:
    """Verify with the altered copy in place of the installed package; what it says, which must be a refusal."""
    path = os.pathsep.join(filter(None, [str(altered), os.environ.get("PYTHONPATH")]))
    line = command(["verify", str(model)])
    done = subprocess.run(line, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, encoding="utf-8")
    said = done.stderr.strip()
    print(red(said), flush=True)
    if done.returncode != 2 or not all(word in said for word in ("refused", "row", "stage", "encode", "size")):
        sys.exit(f"verify should have refused with row, stage and size, and exited {done.returncode}")
    return said


def red(text: str) -> str:
    """In red, as verify prints it to a terminal."""
    plain = not (sys.stdout.isatty() or os.environ.get("FORCE_COLOR")) or bool(os.environ.get("NO_COLOR"))
    return text if plain else "\n".join(f"\x1b[31m{line}\x1b[0m" for line in text.splitlines())


def draw(text: str, typed: str, path: Path) -> None:
    """The refusal as a picture of a terminal, without the fonts that rich would have it fetch from the network."""
    console = Console(record=True, width=100, file=io.StringIO(), legacy_windows=False)
    console.print(Text(f"$ {typed}", style="bold"))
    console.print(Text(text, style="red"))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="mainstem"), flags=re.DOTALL)
    path.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
