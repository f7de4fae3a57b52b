"""`diptych explain`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..data.options import READING, Reading
from .command import command, option
from .options import Model, Split, require_files_in_order
from .terminal import Show


@command(Reading, without=["label_column"], needs={"data": ["rows"], "data, faithfulness": ["split", *READING]})
def explain(
    show: Show,
    model: Model,
    image: Annotated[str | None, typer.Argument(help="An image file; '' for none.")] = None,
    text: Annotated[str | None, typer.Argument(help="A sentence; leave it out for none.")] = None,
    out: Annotated[str | None, option("Folder for the page (HTML) and the picture (PNG).")] = None,
    against: Annotated[str | None, option("Why the predicted class rather than this one.")] = None,
    method: Annotated[
        str, option("How places and words are weighed: integrated-gradients, attention or occlusion.")
    ] = "integrated-gradients",
    data: Annotated[str | None, option("Explain rows of this table in place of one pair.", panel="Data")] = None,
    rows: Annotated[
        str | None, option("Which rows, counted from 0, such as 0,3,10-12.  [default: 0-9]", panel="Data")
    ] = None,
    split: Split = None,
    faithfulness: Annotated[
        str | None, option("Compare all methods on the first 300 rows of this table.", panel="Data")
    ] = None,
    overwrite: Annotated[
        bool, option("Replace the files of an earlier explanation in --out.", "--overwrite", panel="Output")
    ] = False,
    **reading: Any,
) -> None:
    """Explain a prediction: the places and words that speak for it."""
    from ..explain.explain import explain as explain_pair
    from ..explain.many import compare_methods, comparison_text, explain_rows, parse_rows
    from ..explain.page import places_of, save_explanation, see_that_they_may_go
    from ..model.folder import load_model

    if faithfulness is None and out is None:
        raise ValueError("give --out, the folder for the page and the picture")
    if (data is not None or faithfulness is not None) and (image is not None or text is not None):
        raise ValueError("an image or a text and a table were given: explain one pair, or rows of --data")
    explains = {"data": data, "out": out, "against": against, "overwrite": overwrite or None}
    if faithfulness is not None and (unused := [name for name, value in explains.items() if value is not None]):
        raise ValueError(f"--faithfulness compares all methods and explains no pair: leave --{unused[0]} out")
    if data is None and faithfulness is None:
        require_files_in_order(image or "", text)  # before anything is computed
        see_that_they_may_go(places_of(str(out)), overwrite=overwrite)
    network, processor = load_model(model)
    if faithfulness is not None:
        compared = compare_methods(
            network, processor, faithfulness, split=split, quiet=show.quiet, say=show.remark, **reading
        )
        show.result(compared, comparison_text)
    elif data is not None:
        numbers = None if rows is None else parse_rows(rows)
        options: dict[str, Any] = {"rows": numbers, "split": split, "against": against, "method": method}
        options |= {"overwrite": overwrite, "say": show.remark, **reading}
        records = explain_rows(network, processor, data, str(out), **options)
        show.result(records, lambda rows: f"{len(rows)} row{'s' if len(rows) > 1 else ''} explained: {out}/index.html")
    else:
        explanation = explain_pair(network, processor, image=image or None, text=text, against=against, method=method)
        page, picture = save_explanation(explanation, str(out), overwrite=overwrite)
        show.result(explanation.to_dict(), summary)
        show.remark(f"{page} and {picture}")


def summary(explanation: dict[str, Any]) -> str:
    """What the page says, in a few lines."""
    words = sorted(explanation["words"], key=lambda word: -abs(word[1]))[:5]
    faithful = explanation["faithfulness"]
    lines = [
        f"{explanation['label']}  {explanation['score']:.4f}",
        f"contributions to the log-odds: image {explanation['image_contribution']:+.2f}, "
        f"text {explanation['text_contribution']:+.2f}",
    ]
    if words:
        lines.append("words: " + ", ".join(f"{word} {value:+.2f}" for word, value in words))
    lines.append(
        f"without the top fifth of places and words the score is {faithful['without_top']:.4f}, without as many at "
        f"random {faithful['without_random']:.4f}"
        + ("; low faithfulness: read nothing into it" if faithful["low"] else "")
    )
    return "\n".join(lines)
