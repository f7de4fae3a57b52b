"""Missing modalities by the field's protocol: a fixed table says which rows lack what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..runtime.choices import MISSING_TYPES
from ..runtime.options import check_options, option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Missing:
    """Which rows lack a modality.

    Raises:
        ValueError: One of them is out of its range.
    """

    missing: float | None = option(
        None, "Take a modality away from this share of the rows, such as 0.7.", panel="Scores", least=0, most=1
    )
    missing_type: str | None = option(
        None,
        "Which: of both, half of these rows lack the text and half the image.  [default: both]",
        panel="Scores",
        choices=MISSING_TYPES,
        needs="missing",
    )
    missing_seed: int = option(
        0, "Seed of the table that says which rows these are.", panel="Scores", least=0, needs="missing"
    )

    def __post_init__(self) -> None:
        check_options(self)

    def __str__(self) -> str:
        return f"{self.missing:g} of the rows, {self.missing_type or MISSING_TYPES[-1]}, seed {self.missing_seed}"

    def table(self, rows: int) -> NDArray[np.bool_]:
        """Of so many rows what each lacks, (rows, 2), image first (Lee et al., Multimodal Prompting, 2023).

        The same seed gives the same order of rows, so that those that lack something at 0.5 do at 0.7 too.
        """
        import numpy as np

        order = np.random.default_rng(self.missing_seed).permutation(rows)
        lacking = order[: round((self.missing or 0) * rows)]
        table = np.zeros((rows, 2), dtype=bool)
        kind = self.missing_type or "both"
        table[lacking[1::2] if kind == "both" else lacking, 0] = kind != "text"
        table[lacking[0::2] if kind == "both" else lacking, 1] = kind != "image"
        return table


def take_away(batches: Iterable[dict[str, Any]], table: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """Batches without what the table says their rows lack; a row that has one modality keeps it."""
    import torch

    for batch in batches:
        image, text = batch["image_present"], batch["text_present"]
        no_image, no_text = torch.from_numpy(table[batch["rows"]]).to(image.device).unbind(dim=1)
        yield {**batch, "image_present": image & ~(no_image & text), "text_present": text & ~(no_text & image)}
