"""Sparse attention against a dense masked softmax, against Longformer's, and what it costs."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from diptych.fusion import sparse, sparse_flex
from diptych.fusion.sparse import sparse_attention, visible_pairs
from diptych.fusion.sparse_flex import flex_sparse_attention
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LongformerConfig
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

HEADS, SIZE = 2, 4


@contextmanager
def forced(way):
    """Rows of a few windows take a dense way; here all of them go in blocks, or all the dense way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "_is_short", lambda tokens, window: way == "short")
        yield


def random_case(lengths, tokens, *, window, gaps, chosen, groups, seed, dtype=torch.float32):
    """Query, key and value of which `lengths[row]` tokens are real, and the keyword arguments."""
    torch.manual_seed(seed)
    batch = len(lengths)
    three = [torch.randn(batch, HEADS, tokens, SIZE, dtype=dtype, requires_grad=True) for _ in range(3)]
    mask = torch.arange(tokens) < torch.tensor(lengths).unsqueeze(1)
    if gaps:
        mask = torch.stack([row[torch.randperm(tokens)] for row in mask])
    options = {"mask": mask, "window": window}
    if chosen:
        options["is_global"] = torch.rand(batch, tokens) < 0.1  # some of them in padded places
    if groups:
        options["group"] = torch.randint(0, 3, (batch, tokens))
        bias = torch.randn(batch, tokens, dtype=dtype)
        bias[torch.rand(batch, tokens) < 0.3] = float("-inf")
        options["key_bias"] = bias.requires_grad_()
    return three, options


def by_hand(query, key, value, *, mask, window, is_global=None, group=None, key_bias=None):
    """The definition, row by row and pair by pair."""
    rows = []
    for row in range(len(query)):
        real = mask[row].nonzero().flatten()
        special = [is_global is not None and bool(is_global[row, i]) for i in real]
        sees = [
            [
                i == j or (window is not None and abs(i - j) <= window) or special[i] or special[j]
                for j in range(len(real))
            ]
            for i in range(len(real))
        ]
        q, k, v = (states[row][:, real] for states in (query, key, value))  # (heads, real tokens, head_dim)
        scores = torch.einsum("hid,hjd->hij", q, k) / SIZE**0.5
        if group is not None:
            apart = group[row, real].unsqueeze(1) != group[row, real]
            scores = scores + torch.where(apart, key_bias[row, real], 0.0)
        hidden = ~torch.tensor(sees, dtype=torch.bool).view(len(real), len(real))
        seen = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1) @ v
        rows.append(torch.zeros_like(query[row]).index_copy(1, real, seen))
    return torch.stack(rows)


def gradients(out, three, options):
    inputs = [*three, *([options["key_bias"]] if "key_bias" in options else [])]
    torch.manual_seed(0)
    return torch.autograd.grad((out * torch.randn_like(out)).sum(), inputs)


CASES = {
    "lengths": st.lists(st.integers(0, 80), min_size=1, max_size=3),  # a row may have no real token
    "fill": st.integers(0, 5),
    "window": st.one_of(st.none(), st.integers(1, 90)),
    "gaps": st.booleans(),
    "chosen": st.booleans(),
    "groups": st.booleans(),
    "seed": st.integers(0, 1000),
}


def case(lengths, fill, **options):
    return random_case(lengths, max(1, max(lengths) + fill), **options)


@pytest.mark.parametrize("way", ["blocks", "short"])
@settings(deadline=None, max_examples=25)
@given(**CASES)
def test_it_is_the_definition_forward_and_backward(way, **drawn):
    three, options = case(**drawn)
    expected = by_hand(*three, **options)
    with forced(way):
        out = sparse_attention(*three, **options)
        with torch.no_grad():
            torch.testing.assert_close(sparse_attention(*three, **options), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    for ours, theirs in zip(gradients(out, three, options), gradients(expected, three, options), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [1, 40, 130])
@pytest.mark.parametrize("chosen", [False, True])
def test_long_rows_are_a_dense_softmax_under_the_same_mask(window, chosen):
    three, options = random_case([1500, 1601], 1601, window=window, gaps=True, chosen=chosen, groups=False, seed=0)
    mask = options["mask"]
    visible = visible_pairs(mask, window=window, is_global=options.get("is_global"))
    visible = (visible | torch.eye(1601, dtype=torch.bool)).unsqueeze(1)  # else padding's softmax is NaN
    scores = (three[0] @ three[1].transpose(-1, -2) / SIZE**0.5).masked_fill(~visible, float("-inf"))
    expected = scores.softmax(dim=-1) @ three[2]
    expected = torch.where(mask[:, None, :, None], expected, 0.0)
    out = sparse_attention(*three, **options)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    real = mask[:, None, :, None].expand_as(out)
    for ours, theirs in zip(
        torch.autograd.grad(out[real].square().sum(), three),
        torch.autograd.grad(expected[real].square().sum(), three),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=2e-6)  # values reach 10: 1e-5 is their last bit


@settings(deadline=None, max_examples=20)
@given(**CASES)
def test_the_visible_pairs_are_those_that_count(**drawn):
    """With equal scores, and values that name their key, a number is there where the key is seen."""
    (query, _, _), options = case(**drawn | {"groups": False})
    with torch.no_grad(), forced("blocks"):
        zero = torch.zeros_like(query)
        names = torch.eye(query.shape[2], SIZE).expand_as(query)  # of the first keys
        seen = sparse_attention(zero, zero, names, **options)
    visible = visible_pairs(options["mask"], window=options["window"], is_global=options.get("is_global"))
    named = min(SIZE, query.shape[2])
    assert torch.equal(seen[:, 0, :, :named] > 0, visible[:, :, :named])


@settings(deadline=None, max_examples=8)
@given(**CASES)
def test_the_flex_form_is_equal(**drawn):
    three, options = case(**drawn)
    with torch.no_grad():
        options = {"is_global": None, "group": None, "key_bias": None} | options
        mask = options["mask"]
        flex = flex_sparse_attention(*three, **options, compiled=False)
        flex = torch.where(mask[:, None, :, None], flex, 0.0)
        torch.testing.assert_close(flex, sparse_attention(*three, **options), atol=1e-5, rtol=0)


def test_the_flex_form_is_equal_over_several_of_its_blocks():
    for window, chosen in ((30, False), (None, True), (7, True)):
        three, options = random_case([700, 300], 701, window=window, gaps=True, chosen=False, groups=True, seed=1)
        if chosen:
            options["is_global"] = torch.zeros_like(options["mask"])
            options["is_global"][:, 350] = True
        options = {"is_global": None} | options
        with torch.no_grad():
            flex = flex_sparse_attention(*three, **options, compiled=False)
            flex = torch.where(options["mask"][:, None, :, None], flex, 0.0)
            torch.testing.assert_close(flex, sparse_attention(*three, **options), atol=1e-5, rtol=0)


def test_the_flex_form_skips_the_blocks_far_from_the_window():
    real = torch.ones(1, 1280, dtype=torch.bool)
    rank = real.cumsum(dim=1)
    blocks = sparse_flex._block_mask(lambda row, head, i, j: i == j, real, torch.zeros_like(real), rank, 100)
    assert blocks.kv_num_blocks.flatten().tolist() == [2, *[3] * 8, 2]


@pytest.mark.parametrize("way", ["blocks", "short"])
def test_gradients_are_those_of_finite_differences(way):
    three, options = random_case([5, 7], 8, window=1, gaps=True, chosen=False, groups=True, seed=0, dtype=torch.double)
    options["key_bias"] = torch.randn(2, 8, dtype=torch.double, requires_grad=True)
    options["is_global"] = torch.tensor([[True] + [False] * 7, [False, True] * 4])
    bias = options.pop("key_bias")
    with forced(way):
        assert torch.autograd.gradcheck(
            lambda query, key, value, bias: sparse_attention(query, key, value, key_bias=bias, **options),
            (*three, bias),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.double])
@pytest.mark.parametrize("chosen", [False, True])
def test_the_flash_kernel_and_autograds_graphs_say_the_same(chosen, dtype):
    """Without dropout the kernel's own backward is called; with so little that none is dropped, autograd's is."""
    three, options = random_case([700, 801], 801, window=40, gaps=True, chosen=chosen, groups=True, seed=0, dtype=dtype)
    said = []
    for dropout in (0.0, 1e-30):
        out = sparse_attention(*three, **options, dropout=dropout)
        said.append([out, *gradients(out, three, options)])
    for flash, graph in zip(*said, strict=True):
        torch.testing.assert_close(flash, graph, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_second_backward_pass_and_odd_strides_change_nothing(dropout):
    three, options = random_case([1000], 1000, window=8, gaps=False, chosen=True, groups=False, seed=0)
    odd = [states.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_() for states in three]
    said = []
    for inputs in (three, odd):
        torch.manual_seed(0)
        out = sparse_attention(*inputs, **options, dropout=dropout)
        grad = torch.randn(1, HEADS, SIZE, 1000).transpose(2, 3)  # as odd
        first = torch.autograd.grad(out, inputs, grad, retain_graph=True)
        said += [[out, *first], [out, *torch.autograd.grad(out, inputs, grad)]]
    for other in said[1:]:
        for ours, theirs in zip(said[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", ["blocks", "short"])
def test_a_bias_of_minus_infinity_is_a_weight_of_exactly_0(way):
    three, options = random_case([40], 40, window=50, gaps=False, chosen=False, groups=False, seed=0)
    group = (torch.arange(40) >= 20).long().unsqueeze(0)
    bias = torch.where(group == 1, float("-inf"), 0.0).requires_grad_()
    with forced(way):
        out = sparse_attention(*three, **options, group=group, key_bias=bias)
        grads = torch.autograd.grad(out[:, :, :20].square().sum(), [*three, bias])
    assert not any(grad[:, :, 20:].any() for grad in grads[:3])
    assert not grads[3][:, 20:].any()
    assert bool(grads[3].isfinite().all())


@settings(deadline=None, max_examples=20)
@given(**CASES, more=st.integers(0, 40))
def test_padding_changes_nothing_whatever_stands_in_it(more, **drawn):
    three, options = case(**drawn)
    mask = options["mask"]
    with torch.no_grad(), forced("blocks"):
        out = sparse_attention(*three, **options)
        other = [torch.where(mask[:, None, :, None], states, 100.0) for states in three]
        other = [torch.nn.functional.pad(states, (0, 0, 0, more), value=-50.0) for states in other]
        longer = {
            name: torch.nn.functional.pad(field, (0, more)) if torch.is_tensor(field) else field
            for name, field in options.items()
        }
        padded = sparse_attention(*other, **longer)
    torch.testing.assert_close(padded[:, :, : mask.shape[1]], out, atol=1e-5, rtol=0)
    assert not padded.transpose(1, 2)[~longer["mask"]].any()


@pytest.mark.parametrize("chosen", [0, 3])
def test_it_is_longformers_layer_with_the_same_weights(chosen):
    """Hugging Face's has other projections for global tokens: they are set equal here."""
    torch.manual_seed(0)
    config = LongformerConfig(
        hidden_size=16, num_attention_heads=HEADS, attention_window=[16], attention_probs_dropout_prob=0.0
    )
    layer = LongformerSelfAttention(config, 0)
    for name in ("query", "key", "value"):
        getattr(layer, f"{name}_global").load_state_dict(getattr(layer, name).state_dict())
    states = torch.randn(2, 64, 16)
    mask = torch.arange(64) < torch.tensor([[64], [50]])
    is_global = (torch.arange(64) < chosen).expand(2, -1)
    signs = torch.where(mask, torch.where(is_global, 10000.0, 0.0), -10000.0)
    (expected,) = layer(states, signs, signs < 0, signs > 0, bool(chosen))[:1]
    three = (
        linear(states).unflatten(-1, (HEADS, -1)).transpose(1, 2) for linear in (layer.query, layer.key, layer.value)
    )
    with forced("blocks"):
        out = sparse_attention(*three, mask, window=8, is_global=is_global).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out[mask], expected[mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", ["blocks", "short"])
def test_every_switch_changes_the_output(way):
    three, options = random_case([60], 60, window=5, gaps=False, chosen=True, groups=True, seed=0)
    without = {name: field for name, field in options.items() if name not in ("group", "key_bias")}
    torch.manual_seed(0)
    with torch.no_grad(), forced(way):
        out = sparse_attention(*three, **options)
        others = [
            sparse_attention(*three, **options | {"window": 6}),
            sparse_attention(*three, **options | {"window": None}),
            sparse_attention(*three, **options | {"is_global": None}),
            sparse_attention(*three, **without),
            sparse_attention(*three, **options, dropout=0.5),
        ]
        assert torch.equal(sparse_attention(*three, **options), out)
    assert not any(torch.allclose(other, out) for other in others)


class Largest(TorchDispatchMode):
    """The most numbers that any one tensor held."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if torch.is_tensor(tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("gaps", [False, True])
def test_no_tensor_grows_faster_than_the_length(chosen, gaps):
    largest = []
    for tokens in (2000, 4000):
        three, options = random_case([tokens - 10], tokens, window=8, gaps=gaps, chosen=False, groups=gaps, seed=0)
        if chosen:
            options["is_global"] = (torch.arange(tokens) % (tokens // 4) == 0).unsqueeze(0)  # four
        with Largest() as mode:
            gradients(sparse_attention(*three, **options), three, options)
        largest.append(mode.numbers)
    assert largest[1] <= 2.1 * largest[0]
    assert largest[1] < 4000 * 100


@pytest.mark.parametrize("chosen", [0, 2])
def test_the_backward_pass_keeps_no_more_than_dense_attention(chosen):
    tokens = 2000
    three = [torch.randn(1, HEADS, tokens, SIZE, requires_grad=True) for _ in range(3)]
    is_global = (torch.arange(tokens) < chosen).unsqueeze(0)
    node = sparse_attention(*three, window=64, is_global=is_global).grad_fn
    while not hasattr(node, "kept"):
        node = node.next_functions[0][0]
    sizes = [kept.numel() for kept in node.kept] + [states.numel() for states in node.saved_tensors]
    assert sum(sizes) <= (4 * SIZE + 1.1) * HEADS * tokens  # query, key, value, output, and one number a query


def test_what_does_not_fit_is_refused_by_name():
    three = [torch.randn(2, HEADS, 6, SIZE) for _ in range(3)]
    for window in (0, -3):
        with pytest.raises(ValueError, match=f"window is {window}; it must be at least 1"):
            sparse_attention(*three, window=window)
    for name in ("mask", "is_global"):
        with pytest.raises(ValueError, match=rf"{name} has the shape \(2, 5\); it must be \(2, 6\)"):
            sparse_attention(*three, window=1, **{name: torch.ones(2, 5, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"key has the shape \(2, 2, 5, 4\)"):
        sparse_attention(three[0], three[1][:, :, :5], three[2], window=1)
    with pytest.raises(ValueError, match="group and key_bias go together"):
        sparse_attention(*three, window=1, group=torch.zeros(2, 6, dtype=torch.long))
