"""Names among which an option chooses: once, and without torch, for the command line and for what reads them."""

from __future__ import annotations

OBJECTIVES = ("classify", "align")
"""What a run trains for: classes, or that an image and its text lie close together."""
RECIPES = ("fast", "balanced", "best")
"""How long a run is by default."""
METRICS = ("accuracy", "macro_f1", "auroc", "loss", "micro_f1", "mean_average_precision")
"""By what the best epoch can be chosen; the last two of rows with several labels each."""
FUSIONS = ("cross-modal", "self-attention", "bilinear", "concat", "mlp")
"""How the modalities are fused."""
FUSION_OPTIONS = {
    "fusion_layers": ("cross-modal", "self-attention"),
    "fusion_hidden_size": ("cross-modal", "self-attention", "bilinear"),
}
"""Options that some fusions have and others do not."""
PATTERNS = ("dense", "sliding-window", "global", "sliding-window+global")
"""Which tokens see each other in self-attention."""
CLASS_WEIGHTS = ("none", "balanced")
"""How classes count in the loss."""
PRECISIONS = ("no", "fp16", "bf16")
"""Number format of training; `no` is 32 bits."""
IMAGE_WEIGHTS = ("pretrained", "random")
"""What a new image encoder starts from."""
IMAGE_FITS = ("squash", "pad", "crop")
"""How an image of other proportions comes to the encoder's size: whole and stretched, whole between bars, or cut."""
DTYPES = ("bf16", "fp16")
"""Number format of the encoders in classifying, other than 32 bits."""
ON_BAD_ROW = ("mask", "skip", "error")
"""What to do with a row whose image or text cannot be used."""

SET_SCORES = ("least-ambiguous", "adaptive")
"""How conformal sets are built: as small as they can be on the whole, or larger where a row is harder."""

MISSING_TYPES = ("text", "image", "both")
"""Which modality rows lack where evaluation takes one away."""


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """See that `value` is one of `choices`.

    Raises:
        ValueError: It is none of them; the message names it and all of them.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
