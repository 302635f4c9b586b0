"""Cold starts: `import mainstem`, `mainstem --help`, and the server of a text model until it is ready.

    python benchmarks/start.py [--json FILE]

CPU seconds are user and system time, the least of 20 runs, Python's own start taken off for the import. The text model is
`ngram` on the data of `mainstem example reviews`; memory is the sum of PSS over the server's processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HEAVY = ("torch", "transformers", "pandas", "sklearn")


def cpu(command, runs=20):
    """The least CPU seconds of `runs` runs."""
    found = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def loaded(code):
    """Which of the heavy libraries a piece of code loads."""
    script = f"import sys\n{code}\nprint([n for n in {HEAVY!r} if n in sys.modules])"
    return json.loads(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.splitlines()[-1].replace("'", '"')
    )


def pss(pid):
    """PSS in MB of a process and its children."""
    pids = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pids.append(int(child))
    total = 0
    for each in pids:
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def serve(work):
    """Wall seconds until /ready says so, the server's CPU seconds until then, and its PSS after one request."""
    run = [sys.executable, "-m", "mainstem"]
    subprocess.run([*run, "example", "reviews", "-o", "."], cwd=work, check=True, stdout=subprocess.DEVNULL)
    data = next(Path(work).glob("*.csv")).name
    subprocess.run(
        [*run, "train", data, "--target", "label", "--backbone", "ngram", "-o", "run"], cwd=work, check=True, capture_output=True
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    server = subprocess.Popen([*run, "serve", "reviews=run", "--port", str(port)], cwd=work, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).read()
                break
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() - start > 60:
                    raise
                time.sleep(0.005)
        ready = time.monotonic() - start
        ticks = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        spent = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
        body = json.dumps({"rows": [{"text": "fine"}]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict/reviews", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=10).read()
        return {"ready_seconds": round(ready, 3), "ready_cpu_seconds": round(spent, 3), "pss_mb": round(pss(server.pid), 1)}
    finally:
        server.terminate()
        server.wait(20)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bare = cpu([sys.executable, "-c", "pass"])
    report = {
        "import_ms": round(1000 * (cpu([sys.executable, "-c", "import mainstem"]) - bare), 1),
        "help_ms": round(1000 * cpu([sys.executable, "-m", "mainstem", "--help"]), 1),
        "loaded_by_import": loaded("import mainstem"),
        "loaded_by_help": loaded("from mainstem.cli import main\nmain(['--help'])"),
    }
    with tempfile.TemporaryDirectory() as work:
        report["serve"] = serve(work)
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
