"""What the tests of `load_weights` share: logits that must agree."""

import torch


def same(ours, theirs, size=64):
    """The logits of both for two images, to 1e-4 of the largest."""
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        mine, its = ours.eval()(x), theirs(x)
    its = getattr(its, "logits", its)
    assert (mine - its).abs().max() <= 1e-4 * its.abs().max()
    assert its.std(0).max() > 1e-3 * its.abs().max(), "logits that do not depend on the image would agree as well"
