"""The probes as a third party would install them: a distribution with entry points, found by every process."""

import os
import sys
from pathlib import Path

import pytest
import torch

PROBES = Path(__file__).parent / "probes"


@pytest.fixture(scope="package", autouse=True)
def probes(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    info = site / "probes-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probes\nVersion: 0\n")
    tasks = [f"{name} = {name}" for name in ("probe_beam", "probe_gan", "probe_incontext", "probe_boxes", "probe_towers")]
    entries = ["[mainstem.tasks]", *tasks, "[mainstem.modalities]", "probe_rectangles = probe_rectangles"]
    (info / "entry_points.txt").write_text("\n".join(entries) + "\n")
    paths = [str(site), str(PROBES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        for path in paths:
            patch.syspath_prepend(path)
        patch.setenv("MAINSTEM_CACHE", str(tmp_path_factory.mktemp("cache")))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # on a busy machine threads wait for each other: networks this small then take minutes
        yield
        torch.set_num_threads(threads)
    for name in [name for name in sys.modules if name.startswith("probe_")]:
        del sys.modules[name]
