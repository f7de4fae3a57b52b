"""An explanation as a picture: the photo under its heat map, the words, the scores, the modalities."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .explanation import Explanation
from .removal import CELLS

FOR, AGAINST = (214, 96, 0), (30, 96, 200)
"""Colours (red, green, blue) of what speaks for the class and of what speaks against it."""
_INK, _MUTED = "#1a1d21", "#5b6470"
_SIDE = 640  # pixels: the longer side of the photo in a page


def percent(share: float) -> str:
    """A share for people: 100 % only where it is."""
    if 0.999 < share < 1:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def removed(explanation: Explanation) -> str:
    """What was removed to measure faithfulness, in words."""
    faithfulness = explanation.faithfulness
    parts = [f"{faithfulness.cells} of {CELLS * CELLS} places"] if faithfulness.cells else []
    parts += [f"{faithfulness.words} of {len(explanation.words)} words"] if faithfulness.words else []
    return " and ".join(parts)


def overlay(explanation: Explanation, side: int = _SIDE) -> tuple[Image.Image, Image.Image]:
    """The photo, at most `side` pixels long, and its heat map as a transparent picture of the same size.

    The map lies over the part of the photo that the model sees; what it does not see is dimmed.
    """
    if explanation.image is None or explanation.heat is None:
        raise ValueError("the explanation has no image to lay a map over")
    photo = explanation.image.convert("RGB")
    scale = side / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    photo = photo.resize(size, Image.Resampling.LANCZOS)
    heat = explanation.heat.numpy()
    most = float(np.abs(heat).max()) or 1.0
    colours = np.where(heat[..., None] >= 0, np.array(FOR), np.array(AGAINST)).astype(np.uint8)
    alpha = (np.clip(np.abs(heat) / most, 0, 1) ** 1.2 * 220).astype(np.uint8)
    seen = Image.fromarray(np.dstack([colours, alpha]), "RGBA")
    left, top, right, bottom = (
        round(share * length) for share, length in zip(explanation.seen, (*size, *size), strict=True)
    )
    inside = (max(0, left), max(0, top), min(size[0], right), min(size[1], bottom))
    layer = Image.new("RGBA", size, (0, 0, 0, 150))
    layer.paste((0, 0, 0, 0), inside)
    seen = seen.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC)
    layer.alpha_composite(seen.crop((inside[0] - left, inside[1] - top, inside[2] - left, inside[3] - top)), inside[:2])
    return photo, layer


def draw(explanation: Explanation, path: Path) -> None:
    """Write an explanation as a PNG; characters that its font lacks are boxes there, and whole on the page."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _draw(explanation, path)


def _draw(explanation: Explanation, path: Path) -> None:
    from matplotlib.figure import Figure

    has_image = explanation.image is not None and explanation.heat is not None
    figure = Figure(figsize=(11, 5) if has_image else (7, 5), dpi=130, facecolor="white")
    left = 0.47 if has_image else 0.05
    if has_image:
        photo, layer = overlay(explanation)
        axes = figure.add_axes((0.02, 0.04, 0.42, 0.92))
        grey = photo.convert("L").convert("RGBA")  # else the photo's colours would be taken for the map's
        axes.imshow(Image.alpha_composite(grey, layer))
        axes.axis("off")
    versus = f" rather than {explanation.against}" if explanation.against else ""
    title = _short(f"{explanation.label}{versus}", 46)
    size = 19 if len(title) < 30 else 14
    figure.text(left, 0.93, title, parse_math=False, fontsize=size, weight="bold", color=_INK, va="top")
    figure.text(left, 0.835, f"score {percent(explanation.score)}", fontsize=12, color=_MUTED, va="top")
    below = _words(figure, explanation, left, 0.75)
    below = _contributions(figure, explanation, left, below - 0.02)
    if below > 0.3:
        _scores(figure, explanation, left, below)
    faithfulness = explanation.faithfulness
    lines = [
        f"Without the first {removed(explanation)} the score is {percent(faithfulness.without_top)};",
        f"without as many at random {percent(faithfulness.without_random)}."
        + (" Low faithfulness: read nothing into this map." if faithfulness.low else ""),
    ]
    figure.text(left, 0.125, "Orange speaks for it, blue against it.", fontsize=9, color=_MUTED)
    figure.text(left, 0.055, "\n".join(lines), fontsize=9, color="#a3210f" if faithfulness.low else _MUTED)
    figure.savefig(path, format="png", facecolor="white", metadata={"Software": "Diptych"})


def _short(text: str, most: int) -> str:
    return text if len(text) < most else f"{text[: most - 2]}…"


def _tint(value: float, most: float) -> tuple[float, float, float]:
    """The colour behind a word, from white to the full colour of its sign."""
    share = min(abs(value) / most, 1.0) * 0.6
    colour = FOR if value >= 0 else AGAINST
    return tuple(1 - share * (1 - channel / 255) for channel in colour)  # type: ignore[return-value]


def _words(figure: Any, explanation: Explanation, left: float, top: float) -> float:
    """Draw the words in lines, each on its colour; where the next thing may stand."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if explanation.text is None:
        figure.text(left, top, "no text", fontsize=12, color=_MUTED, style="italic", va="top")
        return top - 0.06
    most = max((abs(word.value) for word in explanation.words), default=0.0) or 1.0
    renderer = FigureCanvasAgg(figure).get_renderer()
    width = figure.get_size_inches()[0] * figure.dpi
    x, y, line = left, top, 0.075
    for word in explanation.words[:60]:
        text = _short(explanation.text[word.start : word.end], 30)  # as many wide letters fit a line
        label = figure.text(
            x,
            y,
            text,
            parse_math=False,
            fontsize=13,
            color=_INK,
            va="top",
            bbox={"facecolor": _tint(word.value, most), "edgecolor": "none", "boxstyle": "round,pad=0.22"},
        )
        extent = label.get_window_extent(renderer)
        if x + extent.width / width > 0.97 and x > left:
            if y < 0.5:  # the bars below need room
                label.remove()
                break
            x, y = left, y - line
            label.set_position((x, y))
        x += (extent.width + 0.16 * figure.dpi) / width
    return float(y - line)


def _contributions(figure: Any, explanation: Explanation, left: float, top: float) -> float:
    """Draw what each modality contributed; where the next thing may stand."""
    values = [explanation.image_contribution, explanation.text_contribution]
    parts = [explanation.image, explanation.text]
    notes = ["absent" if part is None else f"{value:+.2f}" for part, value in zip(parts, values, strict=True)]
    colours = [FOR if value >= 0 else AGAINST for value in values]
    title = "contributions to the log-odds"
    return _bars(figure, title, dict(zip(("image", "text"), values, strict=True)), colours, notes, (left, top))


def _scores(figure: Any, explanation: Explanation, left: float, top: float) -> None:
    """Draw the scores of the first classes."""
    best = dict(sorted(explanation.scores.items(), key=lambda item: -item[1])[:3])
    colours = [FOR if name == explanation.label else (150, 158, 168) for name in best]
    shown = {_short(name, 16): score for name, score in best.items()}
    _bars(figure, "scores", shown, colours, [percent(score) for score in best.values()], (left, top), 1.0)


def _bars(
    figure: Any,
    title: str,
    values: dict[str, float],
    colours: list[tuple[int, int, int]],
    notes: list[str],
    place: tuple[float, float],
    full: float | None = None,
) -> float:
    """Draw bars with a title above, a name before and a note behind each; where the next thing may stand.

    The longest bar is of the largest value, or would be of `full`.
    """
    left, top = place
    figure.text(left, top, title, fontsize=10, color=_MUTED, va="top")
    height, most = 0.055 * len(values), full or max(map(abs, values.values())) or 1.0
    axes = figure.add_axes((left + 0.13, top - 0.055 - height, 0.2, height))
    rgb = [tuple(channel / 255 for channel in colour) for colour in colours]
    axes.barh(range(len(values)), list(values.values()), height=0.6, color=rgb)
    low = -1.05 * most if min(values.values()) < 0 else 0.0
    axes.set_xlim(low, 1.05 * most)
    axes.axvline(0, color=_MUTED, linewidth=0.8)
    for index, (name, note) in enumerate(zip(values, notes, strict=True)):
        y = top - 0.055 - height * (index + 0.5) / len(values)
        figure.text(left, y, name, parse_math=False, fontsize=10, color=_INK, va="center")
        figure.text(left + 0.345, y, note, fontsize=10, color=_INK, va="center")
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.axis("off")
    return top - 0.055 - height - 0.05
