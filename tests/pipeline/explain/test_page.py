"""The page and the picture: complete, and readable on a phone and a desk, in light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from diptych import load_model
from diptych.pipeline.demo.scenes import SHIPPED_MODEL, make_scenes
from diptych.pipeline.explain.explain import explain
from diptych.pipeline.explain.page import page_of, save_explanation
from diptych.pipeline.explain.picture import draw, percent
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# What a reader sees of each text: its colour on the first background behind it that is not transparent.
PROBE = """
<script>
const parse = (text) => {
  const n = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
  const scale = text.startsWith("color(") ? 255 : 1;
  return [...n.slice(0, 3).map((v) => v * scale), n[3] ?? 1];
};
const light = (colour) => {
  const [r, g, b] = colour.slice(0, 3).map((v) => v / 255 <= 0.03928 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
function probe(frame) {
  const doc = frame.contentDocument, view = doc.defaultView, low = [];
  for (const node of doc.querySelectorAll("body *:not(script)")) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
    let behind = node, back = parse(view.getComputedStyle(behind).backgroundColor);
    while (back[3] === 0 && behind.parentElement) {
      behind = behind.parentElement;
      back = parse(view.getComputedStyle(behind).backgroundColor);
    }
    if (back[3] === 0) back = [255, 255, 255, 1];
    const pair = [light(parse(view.getComputedStyle(node).color)), light(back)].sort((x, y) => y - x);
    if ((pair[0] + 0.05) / (pair[1] + 0.05) < 4.5) low.push(node.textContent.trim().slice(0, 40));
  }
  const result = { width: doc.documentElement.scrollWidth, room: view.innerWidth, low: low };
  result.words = doc.querySelectorAll(".words button").length;
  const button = doc.querySelector(".words button");
  if (button) button.click();
  result.looked = doc.getElementById("look")?.children.length ?? 0;
  return result;
}
addEventListener("load", () => setTimeout(() => {
  const results = [...document.querySelectorAll("iframe")].map(probe);
  document.body.innerHTML = "<pre>" + JSON.stringify(results) + "</pre>";
}, 100));
</script>
"""
WIDTHS = (360, 1280)


@pytest.fixture(scope="module")
def explanations():
    """Of a pair, of an image alone, of a text alone with what HTML would trip over, of a class with a long name."""
    model, processor = load_model(SHIPPED_MODEL)
    row = make_scenes(4, seed=3)[0]
    text = row["text"]
    awkward = 'a <b>red</b> & "blue" circle ' + "x" * 120
    found = {
        "pair": explain(model, processor, image=row["image"].resize((400, 90)), text=text),
        "image": explain(model, processor, image=row["image"]),
        "text": explain(model, processor, text=awkward),
    }
    model.config.id2label = {0: "false" * 30, 1: "a class with a $name & <tags>"}
    return found | {"names": explain(model, processor, image=row["image"], text=text)}


@pytest.mark.parametrize("name", ["pair", "image", "text", "names"])
def test_a_page_asks_nobody_for_anything(explanations, name):
    page = page_of(explanations[name])
    assert not re.findall(r"https?://|//[a-z]", re.sub(r"data:image/[a-z]+;base64,[\w+/=]+", "", page))
    assert set(re.findall(r'(?:src|href)="(\w+:?)', page)) <= {"data:"}
    assert "$" not in re.sub(r"\$name", "", page)


def test_what_a_user_typed_is_text(explanations):
    assert "<b>red</b>" not in page_of(explanations["text"])
    assert "<tags>" not in page_of(explanations["names"])


def test_picture_and_page_are_files(explanations, tmp_path):
    for name, explanation in explanations.items():
        page, picture = save_explanation(explanation, tmp_path / name)
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
        with Image.open(picture) as image:
            assert image.format == "PNG"
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 8


def test_a_name_is_drawn_as_it_is_written(explanations, tmp_path):
    name = r"$\no formula$"
    draw(replace(explanations["pair"], label=name, scores={name: 1.0}), tmp_path / "names.png")
    assert (tmp_path / "names.png").stat().st_size


@pytest.mark.parametrize(("share", "text"), [(1.0, "100.0 %"), (0.99995, "> 99.9 %"), (0.5, "50.0 %"), (0.0, "0.0 %")])
def test_a_share_for_people(share, text):
    assert percent(share) == text


def opened(pages, folder, scheme):
    """What Chromium sees of pages, one after another, each at both widths."""
    frames = "".join(
        f'<iframe width={width} height=900 style="border:0" srcdoc="{html.escape(page, quote=True)}"></iframe>'
        for page in pages
        for width in WIDTHS
    )
    file = folder / "frames.html"
    file.write_text(f'<!doctype html><meta charset="utf-8">{frames}{PROBE}', encoding="utf-8")
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=5000"),
        *("--enable-logging=stderr", f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"),
        *(f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", file.as_uri()),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in run.stderr, run.stderr
    return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", run.stdout, re.DOTALL)[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page in")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_and_can_be_read(explanations, tmp_path, scheme):
    seen = opened(map(page_of, explanations.values()), tmp_path, scheme)
    names = [name for name in explanations for _ in WIDTHS]
    for name, page in zip(names, seen, strict=True):
        assert page["width"] <= page["room"], (name, page)
        assert not page["low"], (name, page)
        assert page["words"] == len(explanations[name].words)
        assert name != "pair" or page["looked"] == 36


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page in")
def test_the_probe_sees_what_is_wrong(tmp_path):
    page = '<!doctype html><html><body><p style="color:#999;background:#aaa">pale</p><p style="width:2000px">wide</p>'
    for one in opened([page], tmp_path, "light"):
        assert one["low"] == ["pale"]
        assert one["width"] > one["room"]
