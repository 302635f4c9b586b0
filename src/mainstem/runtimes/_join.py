"""Join the inputs of several calls into one, and part the answer again, by the axes of the ports alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mainstem.contracts import Array, Arrays, Port


def rows_of(arrays: Arrays, ports: Mapping[str, Port]) -> int:
    """How many rows a set of arrays has; 1 where none of them has rows."""
    for name, array in arrays.items():
        axes = ports[name].axes
        for kind in ("row", "row>row"):
            if kind in axes:
                return int(array.shape[axes.index(kind)])
    return 1


def pad(array: Array, port: Port, lengths: Mapping[str, int]) -> Array:
    """The array with its "pad" axes grown to `lengths`."""
    widths = [(0, lengths[axis] - size if axis in lengths else 0) for axis, size in zip(port.axes, array.shape, strict=True)]
    return np.pad(array, widths, constant_values=port.pad) if any(w for _, w in widths) else array


def lengths_of(arrays: Arrays, ports: Mapping[str, Port]) -> dict[str, int]:
    """The length of each "pad" axis of a call's inputs."""
    return {
        axis: size
        for name, array in arrays.items()
        for axis, size in zip(ports[name].axes, array.shape, strict=True)
        if axis.startswith("pad:")
    }


def join(parts: Sequence[Arrays], ports: Mapping[str, Port]) -> dict[str, Array]:
    """Arrays of several calls → one call's: padded to the longest, rows one after the other, row numbers shifted."""
    if len(parts) == 1:
        return dict(parts[0])
    starts = np.cumsum([0] + [rows_of(part, ports) for part in parts])
    each = [lengths_of(part, ports) for part in parts]
    lengths = {axis: max(own.get(axis, 0) for own in each) for axis in set().union(*each)}
    joined = {}
    for name in parts[0]:
        port = ports[name]
        pieces = [pad(part[name], port, lengths) for part in parts]
        if "row>row" in port.axes:
            pieces = [piece + start for piece, start in zip(pieces, starts, strict=False)]
        joined[name] = np.concatenate(pieces, axis=_batch_axis(port)) if _batch_axis(port) is not None else pieces[0]
    return joined


def split(arrays: Arrays, ports: Mapping[str, Port], counts: Sequence[int]) -> list[dict[str, Array]]:
    """The answer of a joined call → one answer a call; `counts` are their rows."""
    if len(counts) == 1:
        return [dict(arrays)]
    ends = np.cumsum(counts)
    parts = []
    for start, end in zip(ends - np.asarray(counts), ends, strict=True):
        mine = np.flatnonzero((arrays["owner"] >= start) & (arrays["owner"] < end)) if "owner" in arrays else np.arange(0)
        part = {}
        for name, array in arrays.items():
            axes = ports[name].axes
            if "own" in axes:
                array = np.take(array, mine, axis=axes.index("own"))
                part[name] = array - start if name == "owner" else array
            elif (axis := _batch_axis(ports[name])) is not None:
                array = array[(slice(None),) * axis + (slice(start, end),)]
                part[name] = array - start if "row>row" in axes else array
            else:
                part[name] = array
        parts.append(part)
    return parts


def trim(arrays: Arrays, ports: Mapping[str, Port], own: Mapping[str, int], joined: Mapping[str, int]) -> dict[str, Array]:
    """One call's part of a joined answer, cut back from the `joined` lengths of its inputs' axes to its `own`."""
    return {name: _trimmed(array, ports[name].axes, own, joined) if array.ndim else array for name, array in arrays.items()}


def _trimmed(array: Array, axes: Sequence[str], own: Mapping[str, int], joined: Mapping[str, int]) -> Array:
    for place, axis in enumerate(axes):
        before = (slice(None),) * place
        if "+" in axis:
            first, second = (f"pad:{name}" for name in axis.removeprefix("pad:").split("+"))
            grown = (*before, slice(joined[first], joined[first] + own[second]))
            array = array[grown] if not own[first] else np.concatenate([array[(*before, slice(own[first]))], array[grown]], place)
        elif axis in own:
            array = array[(*before, slice(own[axis]))]
    return array


def common(ports: Mapping[str, Port]) -> list[str]:
    """The inputs that are the same for every row, sorted: calls may be joined only where these are equal."""
    return sorted(name for name, port in ports.items() if _batch_axis(port) is None)


def _batch_axis(port: Port) -> int | None:
    for kind in ("row", "row>row"):
        if kind in port.axes:
            return port.axes.index(kind)
    return None
