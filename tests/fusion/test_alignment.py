"""Contrastive alignment against its definition, alone and in two processes.

`python -m tests.fusion.test_alignment RANK FOLDER` is one of the two processes.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diptych.encoders import Tokens
from diptych.fusion.alignment import Alignment, contrastive_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from . import random_tokens, shake

DIM = 8
ROOT = Path(__file__).parents[2]
SPLITS = {"usual": (5, 3), "one without a usable row": (2, 6), "one without any row": (0, 8)}


def embeddings(rows: int, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return tuple(F.normalize(torch.randn(rows, DIM, dtype=dtype), dim=-1) for _ in range(2))


def loss_by_hand(image: Tensor, text: Tensor, scale: float, present, image_ids, text_ids) -> float:
    rows = [i for i in range(len(image)) if present[i]]
    losses = []
    for i in rows:
        others = [j for j in rows if j == i or (image_ids[j] != image_ids[i] and text_ids[j] != text_ids[i])]
        own = math.exp(scale * torch.dot(image[i], text[i]).item())
        to_texts = sum(math.exp(scale * torch.dot(image[i], text[j]).item()) for j in others)
        to_images = sum(math.exp(scale * torch.dot(image[j], text[i]).item()) for j in others)
        losses += [-math.log(own / to_texts), -math.log(own / to_images)]
    return sum(losses) / len(losses) if losses else 0.0


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=7),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1.0, 14.3, 100.0]),
)
def test_loss_is_the_one_computed_by_hand(rows, seed, scale):
    torch.manual_seed(seed)
    present, image_ids, text_ids = (torch.tensor(column) for column in zip(*rows, strict=True))
    image, text = embeddings(len(rows), dtype=torch.float64)
    loss = contrastive_loss(image, text, torch.tensor(scale), present=present, image_ids=image_ids, text_ids=text_ids)
    expected = loss_by_hand(image, text, scale, present, image_ids.tolist(), text_ids.tolist())
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("given_ids", ["image_ids", "text_ids", None])
def test_rows_without_ids_are_taken_to_differ(given_ids):
    torch.manual_seed(0)
    image, text = embeddings(4)
    ids = {"image_ids": [1, 2, 3, 4], "text_ids": [1, 2, 3, 4]}
    options = {}
    if given_ids:
        ids[given_ids] = [1, 2, 1, 4]
        options[given_ids] = torch.tensor(ids[given_ids])
    present = torch.ones(4, dtype=torch.bool)
    loss = contrastive_loss(image, text, torch.tensor(10.0), present=present, **options)
    assert loss.item() == pytest.approx(loss_by_hand(image, text, 10.0, present, **ids), abs=1e-5)


def test_gradients():
    torch.manual_seed(0)
    image, text = (embeds.requires_grad_() for embeds in embeddings(5, dtype=torch.float64))
    logit_scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    present = torch.tensor([True, True, False, True, True])
    ids = torch.tensor([1, 2, 3, 1, 4])
    assert torch.autograd.gradcheck(
        lambda i, t, s: contrastive_loss(i, t, s.exp(), present=present, image_ids=ids), (image, text, logit_scale)
    )


@pytest.mark.parametrize("shared", ["image_ids", "text_ids"])
def test_rows_that_share_a_half_are_not_each_others_negatives(shared):
    torch.manual_seed(0)
    image, text = embeddings(2)
    image, text = image.requires_grad_(), text.requires_grad_()
    present = torch.ones(2, dtype=torch.bool)
    scale = torch.tensor(5.0)
    apart = contrastive_loss(image, text, scale, present=present, **{shared: torch.tensor([7, 8])})
    loss = contrastive_loss(image, text, scale, present=present, **{shared: torch.tensor([7, 7])})
    loss.backward()
    assert apart.item() > 0.1
    assert loss.item() == 0  # each is left alone with its own pair
    assert not image.grad.any()
    assert not text.grad.any()


def test_sharing_is_between_two_rows_and_no_further():
    """Row 0 shares its text with 1, and 1 its image with 2: 0 and 2 are still told apart."""
    torch.manual_seed(0)
    image, text = embeddings(3)
    image.requires_grad_()
    contrastive_loss(
        image,
        text,
        torch.tensor(5.0),
        present=torch.ones(3, dtype=torch.bool),
        image_ids=torch.tensor([0, 1, 1]),
        text_ids=torch.tensor([0, 0, 2]),
    ).backward()
    assert image.grad[[0, 2]].abs().amax(dim=1).min() > 0
    assert not image.grad[1].any()  # it shares with both


@pytest.mark.parametrize("what", [0.0, 1e4, float("nan")])
def test_rows_with_a_missing_half_take_no_part_whatever_stands_there(what):
    torch.manual_seed(0)
    image, text = embeddings(4)
    keep, present = [0, 2], torch.tensor([True, False, True, False])
    image[1], text[3] = what, what
    image.requires_grad_()
    loss = contrastive_loss(image, text, torch.tensor(5.0), present=present)
    loss.backward()
    alone = contrastive_loss(image[keep], text[keep], torch.tensor(5.0), present=torch.tensor([True, True]))
    assert loss.item() == pytest.approx(alone.item(), abs=1e-6)
    assert not image.grad[[1, 3]].any()
    assert image.grad[keep].abs().amax(dim=1).min() > 0


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_batch_without_a_usable_row_gives_a_zero_that_gradients_go_through(rows):
    torch.manual_seed(0)
    alignment = Alignment(DIM)
    image, text = (
        Tokens(torch.randn(rows, 2, DIM), torch.ones(rows, 2, dtype=torch.bool), torch.full((rows,), there))
        for there in (False, True)
    )
    loss = alignment(image, text)
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in alignment.parameters())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([1.0, 2.0]), r"text_ids is \(2,\) of torch.float32; it must be \(2,\) of torch.int64"),
        (torch.tensor([1, 2, 3]), r"text_ids is \(3,\) of torch.int64; it must be \(2,\)"),
    ],
)
def test_ids_of_another_shape_or_type_are_refused(ids, message):
    image, text = embeddings(2)
    with pytest.raises(ValueError, match=message):
        contrastive_loss(image, text, torch.tensor(1.0), present=torch.ones(2, dtype=torch.bool), text_ids=ids)


def batch() -> tuple[Tokens, Tokens, Tensor, Tensor]:
    image = random_tokens([4] * 5, 4, DIM, present=[True, True, True, False, True])
    text = random_tokens([3, 1, 2, 3, 2], 3, DIM)
    return image, text, torch.tensor([1, 2, 3, 4, 1]), torch.tensor([1, 2, 2, 4, 5])


def test_embeddings_have_length_one_and_are_of_the_mean_token():
    torch.manual_seed(0)
    alignment = shake(Alignment(DIM))
    image, text, _, _ = batch()
    for tokens, embed, project in (
        (image, alignment.embed_image, alignment.image),
        (text, alignment.embed_text, alignment.text),
    ):
        embeds = embed(tokens)
        assert embeds.shape == (5, DIM)
        assert embeds.norm(dim=1).tolist() == pytest.approx([1.0] * 5)
        mean = tokens.states[1, : int(tokens.mask[1].sum())].mean(dim=0)
        normed = (mean - mean.mean()) / (mean.var(correction=0) + 1e-5).sqrt() * project[0].weight + project[0].bias
        expected = project[1].weight @ normed + project[1].bias
        torch.testing.assert_close(embeds[1], expected / expected.norm(), atol=1e-5, rtol=0)


def test_forward_is_the_loss_of_the_embeddings():
    torch.manual_seed(0)
    alignment = shake(Alignment(DIM))
    image, text, image_ids, text_ids = batch()
    loss = alignment(image, text, image_ids=image_ids, text_ids=text_ids)
    expected = loss_by_hand(
        alignment.embed_image(image),
        alignment.embed_text(text),
        alignment.scale.item(),
        [True, True, True, False, True],
        image_ids.tolist(),
        text_ids.tolist(),
    )
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert loss.item() != pytest.approx(alignment(image, text).item(), abs=1e-3)


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(5)), padding=st.integers(0, 3), seed=st.integers(0, 1000))
def test_neither_the_order_of_rows_nor_padding_changes_the_loss(order, padding, seed):
    torch.manual_seed(seed)
    alignment = shake(Alignment(DIM))
    image, text, image_ids, text_ids = batch()
    loss = alignment(image, text, image_ids=image_ids, text_ids=text_ids)
    longer = Tokens(
        torch.cat([text.states, torch.full((5, padding, DIM), 1e3)], dim=1),
        torch.cat([text.mask, torch.zeros(5, padding, dtype=torch.bool)], dim=1),
        text.present,
    )
    image, longer = (Tokens(t.states[order], t.mask[order], t.present[order]) for t in (image, longer))
    other = alignment(image, longer, image_ids=image_ids[order], text_ids=text_ids[order])
    assert other.item() == pytest.approx(loss.item(), abs=1e-5)


def test_scale_starts_at_that_of_clip():
    assert Alignment(DIM).scale.item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("start", [math.log(100), math.log(1000), 50.0])
@pytest.mark.parametrize("training", [True, False])
def test_scale_is_at_most_100_and_has_a_gradient_there(start, training):
    torch.manual_seed(0)
    alignment = Alignment(DIM).train(training)
    with torch.no_grad():
        alignment.logit_scale.fill_(start)
    image, text, _, _ = batch()
    alignment(image, text).backward()
    assert 99.9 < alignment.scale.item() <= 100
    assert alignment.logit_scale.grad.item() > 0  # random pairs: less sure would be better
    assert alignment.logit_scale.item() == pytest.approx(math.log(100) if training else start, abs=1e-3)


def test_scale_comes_back_from_its_end_as_fast_as_it_got_there():
    """A hundred steps of pairs that want it higher do not carry it out of reach."""
    torch.manual_seed(0)
    alignment = Alignment(DIM)
    alignment.text.load_state_dict(alignment.image.state_dict())
    with torch.no_grad():
        alignment.logit_scale.fill_(math.log(90))
    optimizer = torch.optim.Adam([alignment.logit_scale], lr=0.1)
    image = random_tokens([1] * 4, 1, DIM)
    image = replace(image, states=torch.randn(DIM) + 0.1 * image.states)  # so close that no scale is enough
    turned = replace(image, states=image.states.roll(1, dims=0))
    highest = []
    for text, steps in ((image, 100), (turned, 30)):  # every pair is its own best; none is
        for _ in range(steps):
            optimizer.zero_grad()
            alignment(image, text).backward()
            optimizer.step()
            highest.append(alignment.logit_scale.item())
    assert math.log(100) - 0.1 < max(highest) < math.log(100) + 0.3  # a few steps beyond, as far as Adam throws
    assert alignment.scale.item() < 50


def test_two_batches_may_go_forward_before_one_goes_backward():
    torch.manual_seed(0)
    alignment = Alignment(DIM)
    loss = sum(alignment(*batch()[:2]) for _ in range(2))
    loss.backward()
    assert alignment.logit_scale.grad.item() != 0


def test_computed_in_float32_under_autocast_and_from_half_types():
    torch.manual_seed(0)
    alignment = shake(Alignment(DIM))
    image, text, _, _ = batch()
    loss = alignment(image, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = alignment(image, text)
        assert torch.equal(under, loss)
        assert alignment.embed_image(image).dtype == torch.float32
    image, text = (replace(tokens, states=tokens.states.bfloat16()) for tokens in (image, text))
    half = alignment.bfloat16()(image, text)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss.item(), abs=0.1)


def test_it_learns_to_find_pairs():
    """Halves that are two random views of one thing; new pairs are found after training on others."""
    torch.manual_seed(0)
    alignment = Alignment(DIM)
    views = torch.randn(2, 3, DIM)

    def pairs(rows: int) -> tuple[Tokens, Tokens]:
        thing = torch.randn(rows, 3)
        full = torch.ones(rows, 1, dtype=torch.bool)
        return tuple(Tokens((thing @ view).unsqueeze(1), full, full[:, 0]) for view in views)

    def found(image: Tokens, text: Tokens) -> float:
        nearest = (alignment.embed_image(image) @ alignment.embed_text(text).T).argmax(dim=1)
        return (nearest == torch.arange(len(nearest))).double().mean().item()

    new = pairs(20)
    assert found(*new) < 0.4
    optimizer = torch.optim.AdamW(alignment.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        alignment(*pairs(32)).backward()
        optimizer.step()
    assert found(*new) > 0.8


class Aligned(nn.Module):
    """Two tiny encoders and their alignment: loss of raw rows."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(4, DIM), nn.Linear(6, DIM)
        self.alignment = Alignment(DIM)

    def forward(self, images: Tensor, texts: Tensor, present: Tensor, ids: Tensor) -> Tensor:
        image, text = (
            Tokens(encode(rows), torch.ones(rows.shape[:2], dtype=torch.bool), there)
            for encode, rows, there in ((self.image, images, present[:, 0]), (self.text, texts, present[:, 1]))
        )
        return self.alignment(image, text, image_ids=ids[:, 0], text_ids=ids[:, 1])


def model_and_rows() -> tuple[Aligned, list[Tensor]]:
    """In float64, so that what differs is no rounding. The first two of eight rows lack a half."""
    torch.manual_seed(0)
    model = shake(Aligned().double())
    present = torch.ones(8, 2, dtype=torch.bool)
    present[0, 0] = present[1, 1] = present[6, 1] = False
    ids = torch.stack([torch.arange(8), torch.arange(8) + 100], dim=1)
    ids[5, 0], ids[7, 1] = ids[2, 0], ids[3, 1]  # an image and a text that occur in both processes
    rows = [torch.randn(8, 2, 4, dtype=torch.float64), torch.randn(8, 3, 6, dtype=torch.float64), present, ids]
    return model, rows


def one_of_two_processes(rank: int, folder: Path) -> None:
    """Losses, and the gradients that DistributedDataParallel leaves, of this process's share of every split."""
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {}
    for name, (first, _) in SPLITS.items():
        model, rows = model_and_rows()
        parallel = nn.parallel.DistributedDataParallel(model)
        loss = parallel(*(column[:first] if rank == 0 else column[first:] for column in rows))
        loss.backward()
        results[name] = loss.detach(), {key: value.grad for key, value in model.named_parameters()}
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "tests.fusion.test_alignment"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_two_processes_give_the_loss_and_the_gradients_of_one(two_processes, split):
    model, rows = model_and_rows()
    loss = model(*rows)
    loss.backward()
    (first_loss, first), (second_loss, second) = (results[split] for results in two_processes)
    torch.testing.assert_close((first_loss + second_loss) / 2, loss.detach(), atol=1e-6, rtol=0)
    assert loss.item() > 0.1
    for name, parameter in model.named_parameters():
        assert parameter.grad.any(), name
        for gradients in (first, second):
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=0, msg=name)


def test_in_two_processes_negatives_of_the_other_count(two_processes):
    """Each process by itself would give other losses."""
    model, rows = model_and_rows()
    first = SPLITS["usual"][0]
    alone = [model(*(column[part] for column in rows)).item() for part in (slice(first), slice(first, None))]
    gathered = [results["usual"][0].item() for results in two_processes]
    assert all(abs(a - g) > 0.02 for a, g in zip(alone, gathered, strict=True))


if __name__ == "__main__":
    one_of_two_processes(int(sys.argv[1]), Path(sys.argv[2]))
