"""Optimisers, with weight decay given to the parameters that shall have it, and Muon."""

import torch
from torch import Tensor, nn

from resnorm.streams import Stack
from resnorm.training.recipe import Recipe

# a, b, c of the odd polynomial ax + bx^3 + cx^5, and how often it is applied [jordan2024muon].
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
# The root mean square of an update of AdamW, to which Muon's is scaled [liu2025muon].
UPDATE_RMS = 0.2


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the model's trainable parameters, SGD and AdamW in their fused form: one kernel for all.

    "muon": `Muon` for the matrices inside the blocks of the model's stacks, AdamW for all the rest: embeddings, positions,
    heads, convolutions, gains and biases.
    Raises ValueError where no parameter requires a gradient, or "muon" finds no such matrix.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            f"{type(model).__name__} has no parameter that requires a gradient: there is nothing to train; thaw what is to "
            "learn, such as model.head.requires_grad_()"
        )
    if recipe.optimizer == "muon":
        return _muon(model, parameters, recipe)
    groups = _groups(parameters, recipe)
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, recipe.beta2), fused=True)


def _groups(parameters: list[nn.Parameter], recipe: Recipe) -> list[dict]:
    # Told by shape, not by name: gains and biases, whoever owns them, have fewer than two dimensions.
    spared = [] if recipe.decay_norms else [parameter for parameter in parameters if parameter.dim() < 2]
    decayed = parameters if recipe.decay_norms else [parameter for parameter in parameters if parameter.dim() >= 2]
    return [dict(params=params, weight_decay=decay) for params, decay in ((decayed, recipe.weight_decay), (spared, 0.0)) if params]


def _muon(model: nn.Module, parameters: list[nn.Parameter], recipe: Recipe) -> "Muon":
    blocks = [block for module in model.modules() if isinstance(module, Stack) for block in module.blocks]
    inside = {parameter for block in blocks for parameter in block.parameters() if parameter.dim() == 2}
    matrices = [parameter for parameter in parameters if parameter in inside]
    if not matrices:
        raise ValueError(
            f"recipe: optimizer='muon', but {type(model).__name__} has no trainable matrix inside the blocks of a Stack: "
            "take optimizer='adamw'"
        )
    groups = _groups([parameter for parameter in parameters if parameter not in inside], recipe)
    return Muon(matrices, groups, recipe)


def orthogonalised(matrix: Tensor) -> Tensor:
    r"""Move all singular values of a matrix near 1, where $G = U S V^\top$ becomes about $U V^\top$, by Newton-Schulz steps.

    $$X_0 = G / \lVert G \rVert_F, \qquad X_{k+1} = a X_k + (b A_k + c A_k^2) X_k, \qquad A_k = X_k X_k^\top$$

    With a, b, c = 3.4445, -4.7750, 2.0315 five steps bring every singular value of at least 0.2 % of the norm to between
    0.68 and 1.21: fast, but not exact. Computed in bf16 on a GPU, in the matrix's own type on CPU.
    Shapes: (rows, columns) -> (rows, columns). Citation: jordan2024muon.
    """
    a, b, c = COEFFICIENTS
    # The products are of the shorter side.
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x.bfloat16() if x.is_cuda else x
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


class Muon(torch.optim.AdamW):
    r"""Muon for matrices, AdamW for all other parameters, at one learning rate.

    $$M_t = \mu M_{t-1} + (1 - \mu) G_t, \qquad W_t = (1 - \eta \lambda) W_{t-1} - 0.2 \, \eta \sqrt{\max(n, m)} \;
    \mathrm{orthogonalised}(M_t)$$

    for an n x m matrix with the gradient G; with Nesterov's momentum $\mu M_t + (1 - \mu) G_t$ in place of $M_t$. The
    factor gives an update the root mean square that AdamW's have, so that both take the learning rate and the weight
    decay of AdamW. A step takes the gradients of the matrices away.
    Citation: jordan2024muon, liu2025muon.
    """

    def __init__(self, matrices: list[nn.Parameter], groups: list[dict], recipe: Recipe) -> None:
        self.nesterov = recipe.nesterov
        super().__init__(
            [dict(params=matrices, weight_decay=recipe.weight_decay), *groups],
            lr=recipe.lr,
            betas=(recipe.momentum, recipe.beta2),
            capturable=matrices[0].is_cuda,
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        group = self.param_groups[0]
        lr, momentum = group["lr"], group["betas"][0]
        for matrix in group["params"]:
            if matrix.grad is None:
                continue
            state = self.state[matrix]
            if not state:
                # Under AdamW's names: its `load_state_dict` asks for a step.
                state |= dict(step=torch.zeros(()), exp_avg=torch.zeros_like(matrix))
            mean = state["exp_avg"].lerp_(matrix.grad, 1 - momentum)
            update = orthogonalised(matrix.grad.lerp(mean, momentum) if self.nesterov else mean)
            matrix.mul_(1 - lr * group["weight_decay"]).sub_(lr * UPDATE_RMS * max(matrix.shape) ** 0.5 * update)
            # AdamW passes over what has no gradient.
            matrix.grad = None
        super().step()
