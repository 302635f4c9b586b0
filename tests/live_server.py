"""A real server over real sockets, in a thread of the test's own process, and a model that it must refuse."""

import contextlib
import shutil
import threading
import time

import numpy as np
import safetensors.numpy
import uvicorn

from mainstem.serve.app import build
from mainstem.serve.models import Models
from mainstem.testing.faults import relist


@contextlib.contextmanager
def live(folders, **settings):
    """The address of a server that answers these models; `settings`: of `build`."""
    models = folders if isinstance(folders, Models) else Models(folders)
    app = build(models, **settings)
    config = uvicorn.Config(app, port=0, log_level="error", loop="asyncio", ws="none", lifespan="on", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not (server.started and models.done.is_set()):
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def altered(folder, place):
    """A copy of a model whose replay expects other answers, its manifest written anew."""
    shutil.copytree(folder, place)
    arrays = safetensors.numpy.load_file(place / "replay/arrays.safetensors")
    name = next(n for n in arrays if n.startswith("call/"))
    arrays[name] = (arrays[name] + np.float32(0.5)).astype(arrays[name].dtype)
    (place / "replay/arrays.safetensors").write_bytes(safetensors.numpy.save(arrays))
    relist(place)
    return place
