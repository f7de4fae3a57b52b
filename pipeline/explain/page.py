"""An explanation as a page of HTML that needs nothing else: no script, font or picture from anywhere."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable
from pathlib import Path
from string import Template

from PIL import Image

from ..runtime.files import user_path
from ..runtime.options import require_flags
from ..runtime.outputs import beside, see_that_it_is_new, see_that_it_is_ours, writable_folder, write_whole
from .explanation import Explanation, Word
from .picture import draw, overlay, percent, removed

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="Diptych">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --ink: #1a1d21; --muted: #555e69; --line: #dde1e6;
  --for: #d66000; --against: #1e60c8; --track: #eceff3; --warn: #8f1d0c; --warn-back: #fdecea; --tint: 62%; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1d2125; --ink: #eef1f4; --muted: #a9b2bd;
  --line: #343a41; --for: #c45a06; --against: #2d68cf; --track: #2b3036; --warn: #ffb4a6; --warn-back: #3d1d18;
  --tint: 78%; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: clamp(16px, 4vw, 40px); }
h1 { font-size: clamp(24px, 5vw, 34px); line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 13px; font-weight: 600; letter-spacing: .02em; color: var(--muted); margin: 0 0 10px; }
.lead { color: var(--muted); margin: 4px 0 24px; }
.grid { display: grid; grid-template-columns: minmax(0, 1fr); gap: 16px; }
@media (min-width: 800px) { .grid.two { grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); } }
.stack { display: grid; gap: 16px; align-content: start; min-width: 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; min-width: 0;
  align-self: start; }
figure { position: relative; margin: 0; line-height: 0; border-radius: 8px; overflow: hidden; }
figure img { width: 100%; display: block; image-rendering: auto; }
#photo { filter: grayscale(var(--grey, 1)); transition: filter .15s; }
#heat, #look { position: absolute; transition: opacity .15s; }
#heat { inset: 0; height: 100%; }
#look { display: grid; opacity: 0; left: $left%; top: $top%; width: $width%; height: $height%; }
#look i { background: #000; }
.row { display: flex; align-items: center; gap: 10px; margin-top: 12px; font-size: 14px; color: var(--muted); }
input[type=range] { flex: 1; min-width: 0; accent-color: var(--for); }
.words { display: flex; flex-wrap: wrap; gap: 6px 5px; margin: 0; }
.words button { font: inherit; font-size: 17px; color: var(--ink); border: 1px solid var(--line);
  border-radius: 6px; padding: 2px 7px;
  max-width: 100%; overflow-wrap: anywhere; cursor: pointer;
  background: color-mix(in srgb, var(--c) calc(var(--v) * var(--tint) / 1.35), var(--card)); }
.words button:focus-visible, .words button[aria-pressed=true] { outline: 2px solid var(--ink); outline-offset: 1px; }
.hint { font-size: 14px; color: var(--muted); margin: 12px 0 0; min-height: 1.5em; overflow-wrap: anywhere; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 14px; color: var(--muted); margin: 10px 0 0; }
.key span::before { content: ""; display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; background: var(--c); vertical-align: -1px; }
.bar { display: grid; grid-template-columns: minmax(64px, min(32%, 11em)) minmax(0, 1fr) auto; gap: 10px;
  align-items: center; margin: 6px 0; font-size: 15px; }
.bar b { font-weight: 500; overflow-wrap: anywhere; }
.bar div { background: var(--track); border-radius: 5px; height: 12px; position: relative; overflow: hidden; }
.bar div i { position: absolute; top: 0; bottom: 0; background: var(--c, var(--muted)); border-radius: 5px; }
.bar em { min-width: 3.6em; font-style: normal; font-variant-numeric: tabular-nums; text-align: right; }
.warn { background: var(--warn-back); color: var(--warn); border-radius: 8px; padding: 8px 12px; margin: 12px 0 0; }
p { margin: 0; } small { color: var(--muted); font-size: 13px; display: block; margin-top: 10px; }
</style>
</head>
<body><main>
<h1>$label</h1>
<p class="lead">$lead</p>
<div class="grid$two">
$photo
<div class="stack">
$text
<section><h2>What each modality contributed</h2>$modalities
<small>In log-odds of the class; both sum to the difference between the whole pair and no pair at all.</small>
</section>
<section><h2>How faithful this is</h2><p>$faithfulness</p>$warning
<small>Places are greyed, words are masked; the comparison is the mean of 5 random choices. Method: $method.</small>
</section>
<section><h2>Scores</h2>$scores</section>
</div>
</div>
</main>
<script>
const looks = $looks, grid = $grid;
const look = document.getElementById("look"), heat = document.getElementById("heat");
const slider = document.getElementById("strength"), hint = document.getElementById("hint");
const photo = document.getElementById("photo");
function strength(share) { heat.style.opacity = share; photo.style.setProperty("--grey", share); }
if (slider && heat) slider.addEventListener("input", () => strength(slider.value / 100));
let held = null;
function show(button) {
  const values = button ? looks[+button.dataset.index] : null;
  if (hint) hint.textContent = button ? button.title : hint.dataset.text;
  if (!look || !heat) return;
  if (!values) { look.style.opacity = 0; strength(slider ? slider.value / 100 : 1); return; }
  if (!look.children.length) look.append(...values.map(() => document.createElement("i")));
  look.style.gridTemplate = "repeat(" + grid[0] + ", 1fr) / repeat(" + grid[1] + ", 1fr)";
  const most = Math.max(...values);
  values.forEach((value, place) => { look.children[place].style.opacity = 0.8 * (1 - value / most); });
  look.style.opacity = 1; strength(0);
}
document.querySelectorAll(".words button").forEach((button) => {
  button.addEventListener("mouseenter", () => show(button));
  button.addEventListener("focus", () => show(button));
  button.addEventListener("mouseleave", () => show(held));
  button.addEventListener("blur", () => show(held));
  button.addEventListener("click", () => {
    if (held) held.setAttribute("aria-pressed", "false");
    held = held === button ? null : button;
    if (held) held.setAttribute("aria-pressed", "true");
    show(held);
  });
});
</script>
</body></html>
""")


def places_of(folder: str | Path, name: str = "explanation") -> tuple[Path, Path]:
    """Where the page and the picture of an explanation go, `NAME.html` and `NAME.png`."""
    return user_path(folder) / f"{name}.html", user_path(folder) / f"{name}.png"


def see_that_they_may_go(places: Iterable[Path], *, overwrite: bool) -> None:
    """See that nothing is lost by writing an explanation; with `overwrite`, nothing but an earlier one.

    Raises:
        ValueError: It would be, or `overwrite` is no bool.
    """
    require_flags(overwrite=overwrite)
    for place in places:
        see_that_it_is_ours(place) if overwrite else see_that_it_is_new(place)


def save_explanation(
    explanation: Explanation, folder: str | Path, *, name: str = "explanation", overwrite: bool = False
) -> tuple[Path, Path]:
    """Write a page that needs nothing else and a picture; their paths.

    Raises:
        ValueError: One of them is there, and `overwrite` was not given, or it is none of ours.
    """
    page, picture = places_of(folder, name)
    see_that_they_may_go((page, picture), overwrite=overwrite)
    writable_folder(folder)
    write_whole(page, page_of(explanation).encode("utf-8", "replace"))
    with beside(picture, wait=True) as new:
        draw(explanation, new)
    return page, picture


def page_of(explanation: Explanation) -> str:
    """The page as text."""
    left, top, right, bottom = explanation.seen
    versus = f" rather than {explanation.against}" if explanation.against else ""
    has_photo = explanation.image is not None and explanation.heat is not None
    looks = [word.looked_at for word in explanation.words]
    first = next((look for look in looks if look is not None), None)
    faithfulness = explanation.faithfulness
    missing = [name for name, value in (("image", explanation.image), ("text", explanation.text)) if value is None]
    return _PAGE.substitute(
        title=html.escape(f"{explanation.label}, explained"),
        label=html.escape(explanation.label + versus),
        lead=f"Score {percent(explanation.score)}{f'; the pair has no {missing[0]}' if missing else ''}",
        two=" two" if has_photo else "",
        photo=_photo(explanation) if has_photo else "",
        text=_text(explanation, has_photo and first is not None),
        modalities=_modalities(explanation),
        faithfulness=html.escape(
            f"The score is {percent(faithfulness.score)}. Without the first {removed(explanation)} it is "
            f"{percent(faithfulness.without_top)}, without as many at random {percent(faithfulness.without_random)}."
        ),
        warning=(
            '<p class="warn">Low faithfulness: removing what is named here costs no more than chance. Read nothing '
            "into it.</p>"
            if faithfulness.low
            else ""
        ),
        method=html.escape(explanation.method),
        scores=_scores(explanation),
        looks=json.dumps([None if look is None else [round(v, 5) for row in look for v in row] for look in looks]),
        grid=json.dumps([len(first), len(first[0])] if first else [1, 1]),
        left=f"{100 * left:.3f}",
        top=f"{100 * top:.3f}",
        width=f"{100 * (right - left):.3f}",
        height=f"{100 * (bottom - top):.3f}",
    )


def _data(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _photo(explanation: Explanation) -> str:
    photo, layer = overlay(explanation)
    return (
        f'<section><figure><img id="photo" alt="the image" src="{_data(photo, "JPEG")}">'
        f'<img id="heat" alt="what speaks for and against the class" src="{_data(layer, "PNG")}">'
        '<div id="look" aria-hidden="true"></div></figure>'
        '<label class="row">Heat map <input id="strength" type="range" min="0" max="100" value="100"></label>'
        f"{_key()}</section>"
    )


def _key() -> str:
    return (
        '<p class="key"><span style="--c: var(--for)">speaks for it</span>'
        '<span style="--c: var(--against)">speaks against it</span></p>'
    )


def _text(explanation: Explanation, looks: bool) -> str:
    if explanation.text is None:
        return ""
    most = max((abs(word.value) for word in explanation.words), default=0.0) or 1.0
    words = "".join(_word(explanation.text, word, index, most) for index, word in enumerate(explanation.words))
    hint = "Point at a word, or tap it, to see " + ("where it looked." if looks else "what it adds.")
    key = "" if explanation.image is not None else _key()
    return (
        f'<section><h2>Words</h2><p class="words">{words}</p>'
        f'<p class="hint" id="hint" data-text="{hint}">{hint}</p>{key}</section>'
    )


def _word(text: str, word: Word, index: int, most: float) -> str:
    shown = html.escape(text[word.start : word.end])
    return (
        f'<button type="button" aria-pressed="false" data-index="{index}" title="{shown}: {word.value:+.2f}" '
        f'style="--c: {_colour(word.value)}; --v: {abs(word.value) / most:.3f}">{shown}</button>'
    )


def _modalities(explanation: Explanation) -> str:
    values = {"image": explanation.image_contribution, "text": explanation.text_contribution}
    low, high = min(0.0, *values.values()), max(0.0, *values.values())
    whole = (high - low) or 1.0
    bars = []
    for name, value in values.items():
        start, share = 100 * (min(value, 0.0) - low) / whole, 100 * abs(value) / whole
        absent = getattr(explanation, name) is None
        bars.append(_bar(name, start, share, _colour(value), "absent" if absent else f"{value:+.2f}"))
    return "".join(bars)


def _colour(value: float) -> str:
    return "var(--for)" if value >= 0 else "var(--against)"


def _bar(name: str, start: float, share: float, colour: str, value: str) -> str:
    style = f"left: {start:.1f}%; width: {share:.1f}%; --c: {colour}"
    return f'<div class="bar"><b>{html.escape(name)}</b><div><i style="{style}"></i></div><em>{value}</em></div>'


def _scores(explanation: Explanation) -> str:
    best = sorted(explanation.scores.items(), key=lambda item: -item[1])[:6]
    return "".join(
        _bar(name, 0, 100 * score, "var(--for)" if name == explanation.label else "var(--muted)", percent(score))
        for name, score in best
    )
