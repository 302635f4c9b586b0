"""The only module that opens a file for writing: temporary sibling, fsync, manifest, rename, fsync of the folder.

A reader sees the old artifact or the new one, never a torn one, also after kill -9, a full disk or power loss
(RELIABILITY rows 1, 2, 3). Every operation that can fail goes through `os` as this module names it, so that
`mainstem.testing.faults` can fail or kill at the N-th.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mainstem.errors import MainstemError

MANIFEST = "MANIFEST.json"
_TEMPORARY, _OLD = ".tmp-", ".old-"  # being written or removed; set aside while its replacement takes the name
_LEFT = re.compile(r"(.+)\.(tmp|old)-[0-9a-f]{8}")
_SCRATCH = ".mainstem-scratch-"
_scratches: set[Path] = set()  # that this process has now
_CHUNK = 1 << 20


@contextmanager
def _reported(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn what the system says into a MainstemError that names the path and, on a full disk, the bytes needed."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            need = f"; {size:,} bytes were needed" if size is not None else ""
            raise MainstemError(
                f"the disk is full{need}", where=str(path), do="Free some space; nothing that was there is lost."
            ) from error
        raise MainstemError(f"cannot write: {error.strerror or error}", where=str(path), do="Choose another place with -o.") from error


def _write(path: Path, data: bytes) -> None:
    """Create `path` with `data`, on the disk when this returns."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view[: 64 * _CHUNK]) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(path: Path) -> None:
    """Create `path` and the parents it lacks, on the disk when this returns."""
    lacking = [p for p in (path, *path.parents) if not p.exists()]
    os.makedirs(path, exist_ok=True)
    for made in reversed(lacking):
        _sync_folder(made.parent)


def _temporary(path: Path, mark: str = _TEMPORARY) -> Path:
    return path.with_name(f"{path.name}{mark}{secrets.token_hex(4)}")


def write_bytes(path: Path | str, data: bytes) -> Path:
    """Replace `path` by `data` atomically and durably. Raises MainstemError on a full disk; the old file then stands."""
    path = Path(path)
    temporary = _temporary(path)
    with _reported(path, len(data)):
        try:
            _make_folder(path.parent)
            _write(temporary, data)
            os.rename(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            _discard(temporary)
            raise
    return path


def write_text(path: Path | str, text: str) -> Path:
    """Like `write_bytes`, as UTF-8."""
    return write_bytes(path, text.encode())


def to_json(value: Any) -> str:
    """JSON as every file of ours holds it: UTF-8, indented, keys in the order given, no NaN."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def write_json(path: Path | str, value: Any) -> Path:
    """Like `write_bytes`, as JSON."""
    return write_text(path, to_json(value))


def append_line(path: Path | str, text: str) -> None:
    """Add one line to a log. A line may be lost at power loss; the lines before it stand.

    On a full disk none of the line stays, so that the next one does not run into it.
    """
    path, data = Path(path), (text + "\n").encode()
    with _reported(path, len(data)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(handle).st_size
        try:
            if os.write(handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(handle, size)
            raise
        finally:
            os.close(handle)


def append_bytes(path: Path | str, data: bytes) -> None:
    """Add to the end of a file that exists, on the disk when this returns. On a full disk none of `data` stays."""
    path = Path(path)
    with _reported(path, len(data)):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        size = os.fstat(handle).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view[: 64 * _CHUNK]) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, size)
            raise
        finally:
            os.close(handle)


def truncate(path: Path | str, size: int) -> None:
    """Cut a log back to its first `size` bytes (a resumed run drops what was logged after its checkpoint)."""
    path = Path(path)
    if path.exists() and path.stat().st_size > size:
        with _reported(path):
            os.truncate(path, size)


class Folder:
    """A folder being written: `add` files to it, then it appears whole under its name, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path  # where the files lie until the folder appears
        self.hashes: dict[str, str] = {}

    def add(self, name: str, content: bytes | str | Path) -> None:
        """Add one file: bytes, text, or a Path, which is linked where the disk allows it, else copied."""
        target = self.path / name
        os.makedirs(target.parent, exist_ok=True)
        if isinstance(content, Path):
            self.hashes[name] = hash_file(content)
            try:
                os.link(content.resolve(), target)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                    raise
                _write(target, content.read_bytes())
            return
        data = content.encode() if isinstance(content, str) else content
        _write(target, data)
        self.hashes[name] = hashlib.sha256(data).hexdigest()

    def add_json(self, name: str, value: Any) -> None:
        """Add one file as JSON."""
        self.add(name, to_json(value))

    def replace(self, name: str, content: bytes | str) -> None:
        """Write again a file that was added before."""
        os.unlink(self.path / name)
        self.add(name, content)


def listing(fields: Mapping[str, Any], hashes: Mapping[str, str]) -> bytes:
    """A MANIFEST.json: `fields`, the SHA-256 of every file, and that of all this, so that no bit of it changes unseen."""
    told = {**fields, "files": dict(sorted(hashes.items()))}
    return to_json({**told, "sha256": hashlib.sha256(to_json(told).encode()).hexdigest()}).encode()


@contextmanager
def folder(path: Path | str, manifest: Mapping[str, Any] | None = None) -> Iterator[Folder]:
    """Write a whole folder atomically; with `manifest`, MANIFEST.json is written last, with the SHA-256 of every file.

    An existing folder of that name is replaced: set aside under a temporary name, and only then removed.
    Raises MainstemError on a full disk; nothing is left behind and the old folder stands.
    """
    path = Path(path)
    temporary = _temporary(path)
    with _reported(path):
        try:
            _make_folder(path.parent)
            os.mkdir(temporary)
            made = Folder(temporary)
            yield made
            if manifest is not None:
                _write(temporary / MANIFEST, listing(manifest, made.hashes))
            for parent in sorted({p.parent for p in temporary.rglob("*")} | {temporary}, reverse=True):
                _sync_folder(parent)
            _swap(temporary, path)
        except BaseException:
            _discard(temporary)
            raise


def _swap(temporary: Path, path: Path) -> None:
    """Give `temporary` the name `path`; what had the name is removed afterwards."""
    old = None
    if path.exists():
        old = _temporary(path, _OLD)
        os.rename(path, old)
    try:
        os.rename(temporary, path)
    except BaseException:
        if old is not None:
            os.rename(old, path)
        raise
    _sync_folder(path.parent)
    if old is not None:
        _discard(old)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove(path: Path | str) -> None:
    """Remove a file or folder, under another name first, so that no reader meets half of it."""
    path = Path(path)
    if path.exists():
        temporary = _temporary(path)
        with _reported(path):
            os.rename(path, temporary)
        _discard(temporary)


@contextmanager
def held(path: Path | str) -> Iterator[None]:
    """Hold a folder, made where it is missing, against other processes; a killed holder lets go.

    Raises MainstemError where another process holds it. A file system that cannot lock holds nothing.
    """
    path = Path(path)
    with _reported(path):
        _make_folder(path)
        handle = os.open(path, os.O_RDONLY)
    try:
        _lock(handle, path)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path) -> bool:
    """Whether it is locked now: not every file system can. Raises MainstemError where another process has it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        raise MainstemError("another process is at work in this folder", where=str(path), do="Wait for it, or choose another.") from None
    except (ImportError, OSError):
        return False


def sweep(parent: Path | str, *, older: float = 0) -> int:
    """Remove what killed writers left in `parent`; an old folder whose replacement never came gets its name back.

    Returns how many were removed. Call it only where no other writer is at work (a run holds its folder), or for what is
    `older` than so many seconds.
    """
    parent, removed = Path(parent), 0
    for entry in sorted(parent.iterdir()) if parent.is_dir() else ():
        left = _LEFT.fullmatch(entry.name)
        if left is None or (older and time.time() - entry.lstat().st_mtime < older):
            continue
        name = parent / left[1]
        if left[2] == "old" and not name.exists():
            with _reported(name):
                os.rename(entry, name)
        else:
            _discard(entry)
            removed += 1
    return removed


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in the temporary folder (TMPDIR) for a moment, locked meanwhile: what a killed process leaves, `clear_scratch` removes.

    Raises OSError where there can be none.
    """
    clear_scratch()
    path, handle = _locked_scratch()
    _scratches.add(path)
    try:
        yield path
    finally:
        _discard(path)
        _scratches.discard(path)
        os.close(handle)


def _locked_scratch() -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_SCRATCH))
        with suppress(FileNotFoundError):  # another process found it before it was locked, and took it for left behind
            handle = os.open(path, os.O_RDONLY)
            with suppress(MainstemError):
                _lock(handle, path)
                if path.exists():
                    return path, handle
            os.close(handle)


def clear_scratch(*, own: bool = False) -> None:
    """Remove the scratch folders that killed processes left, by their locks; `own`: those of this process, which ends now."""
    if own:
        for path in tuple(_scratches):
            _discard(path)
        return
    with suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}????????"):
            with suppress(OSError):
                handle = os.open(path, os.O_RDONLY)
                try:
                    with suppress(MainstemError):  # it is in use
                        if _lock(handle, path):
                            _discard(path)
                finally:
                    os.close(handle)


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def broken(path: Path | str) -> list[str]:
    """What in a folder does not match its MANIFEST.json: "head.safetensors: changed", "x: missing", "y: not listed"."""
    path = Path(path)
    if (path / MANIFEST).is_symlink():
        return [f"{MANIFEST}: a link, not a file"]
    try:
        written = (path / MANIFEST).read_bytes()
        told = json.loads(written)
        listed = told["files"]
        if not isinstance(listed, dict):
            raise ValueError("files is not an object")
        if written != listing({key: value for key, value in told.items() if key not in ("files", "sha256")}, listed):
            return [f"{MANIFEST}: changed"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [f"{MANIFEST}: missing or unreadable"]
    found = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file() or p.is_symlink()}
    wrong = [f"{name}: not listed" for name in sorted(found.keys() - listed.keys() - {MANIFEST})]
    for name, digest in sorted(listed.items()):
        file = path / name
        if name not in found or file.is_symlink():
            wrong.append(f"{name}: {'a link, not a file' if file.is_symlink() else 'missing'}")
        elif hash_file(file) != digest:
            wrong.append(f"{name}: changed")
    return wrong
