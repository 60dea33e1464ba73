"""What the tests of `load_weights` share: networks away from their start, and logits that must agree."""

import torch


def shaken(network):
    """Every parameter and running statistic away from its start, so that no gain of 0 or 1 hides a wrong place."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1 if parameter.dim() < 2 else 0.02)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.8, 1.6)
    return network.eval()


def same(ours, theirs, size=64):
    """The logits of both for two images, to 1e-4 of the largest."""
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        mine, its = ours.eval()(x), theirs(x)
    its = getattr(its, "logits", its)
    assert (mine - its).abs().max() <= 1e-4 * its.abs().max()
    assert its.std(0).max() > 1e-3 * its.abs().max(), "logits that do not depend on the image would agree as well"
