"""A picture beside what only a browser can draw, where what draws it is installed here.

An agent sees pictures, not pages. SVG is drawn by resvg, a chart of Vega-Lite by vl-convert (as
``altair`` itself does), one of plotly by its own exporter, kaleido. None of them is loaded
before it is wanted, and what it costs is the cell's: its time, its memory, its walls. resvg ends
its process when memory is short, so it has one of its own.
"""

import base64
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

SVG, PNG = "image/svg+xml", "image/png"
PLOTLY = "application/vnd.plotly.v1+json"
VEGA_LITE = "application/vnd.vegalite."
RASTER = ("image/png", "image/jpeg", "image/gif", "image/webp")
SOURCE_CHARS = 2_000_000  # of a form that is drawn
REASON_CHARS = 200
SIDE = 2000  # pixels of the longer side of what is drawn
RATIO = 100  # of the longer side to the shorter one
STANDARD = (300.0, 150.0)  # of an SVG that does not say its size, as in browsers
SECONDS = 20.0  # that an SVG may take
DRAW_SVG = (
    "import sys; sys.path.insert(0, sys.argv[1]); import resvg_py; "
    "sys.stdout.buffer.write(bytes(resvg_py.svg_to_bytes(svg_string=sys.stdin.read(), "
    "width=int(sys.argv[2]), height=int(sys.argv[3]), background='#ffffff')))"
)
ROOT = re.compile(r"<(?:\w+:)?svg\b[^>]*>")
SIZE = re.compile(r"""\b(width|height|viewBox)\s*=\s*["']([^"']*)["']""")
NUMBER = re.compile(r"\s*\d+(\.\d+)?(?=\s*(px)?\s*$|\s*pt\s*$)")


def with_picture(data: dict[str, Any]) -> dict[str, Any]:
    """Return the forms of a display, with a picture if it has none and one can be made."""
    if any(kind in data for kind in RASTER):
        return data
    for kind, value in data.items():
        draw, needed = drawing_of(kind)
        if draw is None or not is_installed(needed) or len(str(value)) > SOURCE_CHARS:
            continue
        try:
            return {**data, PNG: base64.b64encode(draw(value)).decode("ascii")}
        except Exception as error:  # a chart that its exporter can't draw is still a chart
            said = f"{type(error).__name__}: {error}"[:REASON_CHARS]
            told = f"[no picture of it: {needed}: {said}]"
            plain = str(data.get("text/plain", ""))
            return {**data, "text/plain": f"{plain}\n{told}".strip()}
    return data


def drawing_of(kind: str) -> tuple[Callable[[Any], bytes] | None, str]:
    """Return what draws a form, and the module that it needs; None: nothing does."""
    if kind == SVG:
        return draw_svg, "resvg_py"
    if kind == PLOTLY:
        return draw_plotly, "kaleido"
    if kind.startswith(VEGA_LITE):
        return draw_vega_lite, "vl_convert"
    return None, ""


def is_installed(module: str) -> bool:
    """Say whether a module can be imported here."""
    if module in sys.modules:
        return True
    with contextlib.suppress(ImportError, ValueError):
        return find_spec(module) is not None
    return False


def draw_svg(source: Any) -> bytes:
    """Draw an SVG, in its own size up to a bound, without what it would load from elsewhere."""
    text = str(source)
    width, height = size_of(text)
    folder = os.path.dirname(os.path.dirname(str(find_spec("resvg_py").origin)))  # type: ignore[union-attr]
    argv = [sys.executable, "-I", "-S", "-c", DRAW_SVG, folder, str(width), str(height)]
    data = text.encode("utf-8", "replace")
    try:
        done = subprocess.run(argv, input=data, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        msg = f"it took longer than {SECONDS:g} s"
        raise TimeoutError(msg) from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"it ended with {done.returncode}")
    return done.stdout


def size_of(svg: str) -> tuple[int, int]:
    """Return the pixels by which an SVG is drawn: its own, in proportion up to `SIDE`.

    Raises:
        ValueError: It is a line more than a picture.
    """
    root = ROOT.search(svg)
    said = dict(SIZE.findall(root.group())) if root else {}
    try:
        width, height = (float(NUMBER.match(said[name]).group()) for name in ("width", "height"))  # type: ignore[union-attr]
    except (KeyError, AttributeError, ValueError):
        box = said.get("viewBox", "").replace(",", " ").split()
        width, height = (float(box[2]), float(box[3])) if len(box) == 4 else STANDARD
    if max(width, height) > RATIO * min(width, height):
        msg = f"its sides are {width:g} and {height:g}"
        raise ValueError(msg)
    scale = min(1.0, SIDE / max(width, height, 1.0))
    return max(1, round(width * scale)), max(1, round(height * scale))


def draw_vega_lite(spec: Any) -> bytes:
    """Draw a chart of Vega-Lite."""
    return bytes(import_module("vl_convert").vegalite_to_png(spec))


def draw_plotly(figure: Any) -> bytes:
    """Draw a figure of plotly's."""
    wanted = {name: figure[name] for name in ("data", "layout") if name in figure}
    return bytes(import_module("plotly.io").to_image(wanted, format="png", validate=False))
