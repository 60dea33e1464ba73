"""Optimisers, with weight decay given to the parameters that shall have it."""

import torch
from torch import nn

from resnorm.training.recipe import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the model's trainable parameters, in its fused form: one kernel, not one a tensor."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Told by shape, not by name: gains and biases, whoever owns them, have fewer than two dimensions.
    spared = [] if recipe.decay_norms else [parameter for parameter in parameters if parameter.dim() < 2]
    decayed = parameters if recipe.decay_norms else [parameter for parameter in parameters if parameter.dim() >= 2]
    groups = [
        dict(params=params, weight_decay=decay)
        for params, decay in ((decayed, recipe.weight_decay), (spared, 0.0))
        if params
    ]
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, recipe.beta2), fused=True)
