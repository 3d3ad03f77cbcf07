"""Draws the curves of PPO as a small SVG: reward, KL and entropy by iteration, one panel each.

The colours are of medium brightness, so that they are legible on white and on black. Three lines
do not need a plotting library.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

_PANELS: Final = (
    ("score", "Reward (normalised)", "#2f80d0"),
    ("kl", "KL (nats per answer)", "#c96a1b"),
    ("entropy", "Entropy (nats per token)", "#2a9160"),
)
_WIDTH: Final = 250  # of a panel, in pixels
_HEIGHT: Final = 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 30, 26
_GREY: Final = "#808080"


def chart(iterations: Sequence[Mapping[str, float]]) -> str:
    """Return an SVG of `score`, `kl` and `entropy` over the `number` of the iterations.

    Figures that are not finite are left out.
    """
    width = _WIDTH * len(_PANELS)
    svg = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {_HEIGHT}",
            "width": str(width),
            "height": str(_HEIGHT),
            "font-family": "sans-serif",
            "font-size": "11",
            "fill": _GREY,
        },
    )
    SubElement(svg, "title").text = "Reward, KL and entropy by PPO iteration"
    for index, (name, title, colour) in enumerate(_PANELS):
        points = [
            (i["number"], i[name]) for i in iterations if math.isfinite(i.get(name, math.nan))
        ]
        panel = SubElement(svg, "g", {"transform": f"translate({index * _WIDTH} 0)", "id": name})
        _draw_panel(panel, points, title, colour)
    ElementTree.indent(svg)
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def _draw_panel(
    panel: Element, points: Sequence[tuple[float, float]], title: str, colour: str
) -> None:
    _add_text(panel, _LEFT, 16, title, **{"font-weight": "bold"})
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    axes = f"{_LEFT},{_TOP} {_LEFT},{bottom} {right},{bottom}"
    SubElement(panel, "polyline", {"points": axes, "fill": "none", "stroke": _GREY})
    if not points:
        return
    numbers, values = zip(*points, strict=True)
    first, last = numbers[0], numbers[-1]
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    points_xy = [
        (
            _LEFT + (right - _LEFT) * ((number - first) / (last - first) if last > first else 0.5),
            bottom - (bottom - _TOP) * (value - low) / (high - low),
        )
        for number, value in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points_xy)
    SubElement(
        panel, "polyline", {"points": line, "fill": "none", "stroke": colour, "stroke-width": "2"}
    )
    x, y = points_xy[-1]
    SubElement(panel, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "3", "fill": colour})
    _add_text(panel, _LEFT - 5, _TOP + 4, f"{high:.3g}", **{"text-anchor": "end"})
    _add_text(panel, _LEFT - 5, bottom + 4, f"{low:.3g}", **{"text-anchor": "end"})
    _add_text(panel, _LEFT, bottom + 16, f"{first:g}", **{"text-anchor": "middle"})
    _add_text(panel, right, bottom + 16, f"{last:g}", **{"text-anchor": "middle"})


def _add_text(panel: Element, x: float, y: float, text: str, **attributes: str) -> None:
    SubElement(panel, "text", {"x": f"{x:g}", "y": f"{y:g}", **attributes}).text = text
