"""A branch that returns less gradient, or more, than it would."""

from torch import Tensor, nn


class Damped(nn.Module):
    r"""The branch as it is, with its backward gain multiplied by `beta`: $J_F^\top g$ becomes $\sqrt{\beta}\, J_F^\top g$.

    Its output is unchanged, bit for bit; so 0 cuts the branch off from the gradient. Raises ValueError for a negative `beta`.
    """

    def __init__(self, branch: nn.Module, beta: float):
        super().__init__()
        if beta < 0:
            raise ValueError(f"beta is {beta}: give a number of 0 or more")
        self.branch, self.beta = branch, beta

    def forward(self, x: Tensor) -> Tensor:
        h = self.branch(x)
        return h.detach() + self.beta**0.5 * (h - h.detach())
