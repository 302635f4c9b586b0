"""`mainstem doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata, util

EXTRAS = {
    "base (predict, verify, serve)": (
        "numpy", "onnxruntime", "tokenizers", "Pillow", "safetensors", "pydantic", "PyYAML",
        "typer", "rich", "starlette", "uvicorn", "orjson",
    ),
    "tables (train linear models and trees)": ("scikit-learn", "pandas", "pyarrow", "openpyxl", "onnx"),
    "train (train networks)": ("torch", "torchvision", "transformers", "timm", "matplotlib", "tensorboard"),
}  # fmt: skip


def command() -> None:
    """What is installed with its version, what is missing and how to install it, and what this machine can do."""
    import mainstem

    print(f"mainstem {mainstem.__version__}, Python {platform.python_version()} at {sys.executable}")
    complete = [_extra(title, names) for title, names in EXTRAS.items()]
    print(f"\nThis machine: {platform.system()} {platform.machine()}, {cores()} cores, {_memory()}, {_disk()}")
    print(f"Accelerator: {_accelerator()}")
    able = ["predict, verify, serve", "train linear models and trees on tables", "train networks on tables, text and pictures"]
    print(f"It can: {'; '.join(what for what, there in zip(able, complete, strict=True) if there) or 'nothing yet'}.")


def _extra(title: str, names: tuple[str, ...]) -> bool:
    """One group of libraries as lines; whether it is complete."""
    found = {name: _version(name) for name in names}
    print(f"\n{title}")
    print("  " + ", ".join(f"{name} {version}" for name, version in found.items() if version))
    missing = [name for name, version in found.items() if not version]
    if missing:
        extra = title.partition(" ")[0]
        wanted = "mainstem" if extra == "base" else f"'mainstem[{extra}]'"
        print(f"  missing: {', '.join(missing)}. pip install {wanted}")
    return not missing


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    try:
        pages, free = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_AVPHYS_PAGES")
        size = os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError, AttributeError):
        return "memory unknown"
    return f"{pages * size:.1f} GiB memory ({free * size:.1f} free)"


def _disk() -> str:
    return f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free on the disk here"


def _accelerator() -> str:
    """Told from the driver's files: importing PyTorch to ask would take seconds."""
    cards = [name for name in ("nvidia0", "kfd") if os.path.exists(f"/dev/{name}")]
    if not cards:
        return "Apple GPU" if platform.system() == "Darwin" and platform.machine() == "arm64" else "none found; networks train on the cores"
    return "a GPU" + ("" if util.find_spec("torch") else ", and PyTorch is missing to use it")
