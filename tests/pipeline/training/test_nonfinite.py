"""A loss or a gradient that is not finite ends a run and names its rows, or is left out and counted."""

from __future__ import annotations

import contextlib

import pytest
from diptych import DiptychModel, load_model
from diptych.pipeline.loading.loader import Collate

from .conftest import options
from .test_train import run


@contextlib.contextmanager
def a_lost_loss(batch, *, what="loss"):
    """Make the loss, or the gradient, of one batch of the first epoch not finite; the rows of all batches of 8."""
    with pytest.MonkeyPatch.context() as patch:
        original, calls, rows = DiptychModel.fuse, [], []

        def fuse(model, *arguments, **others):
            output = original(model, *arguments, **others)
            if model.training:
                calls.append(1)
                if len(calls) == batch:
                    zero = output.loss - output.loss.detach()  # whose root is 0, and has an infinite slope
                    output.loss = output.loss * float("nan") if what == "loss" else zero.sqrt()
            return output

        collate = Collate.__call__

        def called(self, examples):
            found = collate(self, examples)
            if len(found["rows"]) == 8:
                rows.append(found["rows"])
            return found

        patch.setattr(DiptychModel, "fuse", fuse)
        patch.setattr(Collate, "__call__", called)
        yield rows


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_run_and_names_its_rows(few, text_folder, tmp_path, what):
    said = rf"the {what} of step 3, in epoch 1, is not finite; its rows: .*\. Look at them"
    with a_lost_loss(3, what=what) as rows, pytest.raises(ValueError, match=said) as it:
        run(few, tmp_path, text_folder, **options())
    named = str(it.value).split("its rows: ")[1].split(". Look")[0]
    # one batch was measured before training, three were trained on, and one is read ahead
    assert list(map(int, named.split(", "))) == sorted(rows[3])


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_it_can_be_left_out_and_is_counted(few, text_folder, tmp_path, what):
    with a_lost_loss(3, what=what):
        record = run(few, tmp_path, text_folder, **options(skip_nonfinite=True))
    assert (record["skipped_steps"], record["steps"]) == (1, 10)
    assert all(0 < epoch["train_loss"] < 10 for epoch in record["epochs"])
    assert all(bool(p.isfinite().all()) for p in load_model(tmp_path)[0].parameters())


# from outside
