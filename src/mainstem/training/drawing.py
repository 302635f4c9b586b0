"""Pictures of a run, by Matplotlib; Chinese names are drawn where the machine has a font for them."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Parts of the file names of fonts with Chinese, Japanese and Korean characters.
CJK_FONTS = ("notosanscjk", "sourcehansans", "wqy-microhei", "wqy-zenhei", "droidsansfallback", "msyh", "simhei", "pingfang")
BLUE, RED, GREY = "#4c78a8", "#e45756", "#666666"


def png(draw: Callable[[Any], None], width: float = 6.4, height: float = 4.4) -> bytes:
    """What `draw` puts on a figure of so many inches, as PNG; nothing where Matplotlib is not installed."""
    try:
        from matplotlib import font_manager, rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return b""
    families = ["DejaVu Sans", *_cjk_fonts(font_manager)]
    with warnings.catch_warnings(), rc_context({"font.family": families}), _quiet("matplotlib.font_manager"):
        warnings.simplefilter("ignore", UserWarning)  # characters that no installed font has are drawn as boxes
        figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """No remarks of this logger: which weight of a font stands in for another is nobody's concern."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _cjk_fonts(manager: Any) -> list[str]:
    """Families with Chinese characters that this machine has; looked for on the disk, since Matplotlib's own list may be old."""
    names = []
    for path in sorted(manager.findSystemFonts()):
        if any(part in Path(path).name.lower().replace("_", "") for part in CJK_FONTS):
            manager.fontManager.addfont(path)
            names.append(manager.FontProperties(fname=path).get_name())
    return names
