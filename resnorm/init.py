"""Initialisation by role: a rule reads what a weight does in its branch, never what it is called.

Every branch tells its weights' roles: `query`, `key`, `value`, `hidden` (the first matrices of an MLP), `output` (what
writes into the stream), `kernel` (a convolution) and `bias`. The weights of a merge's shortcut have the role
`shortcut`, those of its gate the role `gate`; a gate's bias is the merge's own choice. `fan_in` and `fan_out` are those
of the role's own matrix, also where several roles share one tensor.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from resnorm.branches import Convolution
from resnorm.letters import Add
from resnorm.streams import Stack
from resnorm.words import BRANCHES, Block, residual_paths

WEIGHTS = ("query", "key", "value", "hidden", "output", "kernel", "shortcut", "gate")


def roles(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (role, tensor) for every branch and every shortcut inside a module, in the order of its modules."""
    for child in module.modules():
        if hasattr(child, "roles"):
            yield from child.roles()
        elif isinstance(child, Add):
            for part in child.shortcut.modules() if child.shortcut is not None else ():
                if isinstance(part, (nn.Conv2d, nn.Linear)) and not hasattr(part, "roles"):
                    yield "shortcut", part.weight
            if child.gate is not None:
                yield "gate", child.gate.weight


@torch.no_grad()
def _apply(module: nn.Module, rule: Callable[[str, Tensor], None]) -> None:
    """Run a rule on every weight, and set every bias of a branch to zero."""
    found = False
    for role, tensor in roles(module):
        found = True
        if role == "bias":
            tensor.zero_()
        else:
            rule(role, tensor)
    if not found:
        raise ValueError(f"{type(module).__name__} has no branch whose weights have roles; build it from resnorm.branches")
    for child in module.modules():
        if isinstance(child, Convolution):
            child.reset_gain()


def he(module: nn.Module, mode: str = "fan_out") -> None:
    r"""Draw every weight from $N(0, 2 / \text{fan})$, for branches whose activation is ReLU.

    `mode`: "fan_out" keeps the size of the gradient (torchvision's choice), "fan_in" that of the signal.
    Raises `ValueError` for a module without branches. Citation: he2016deep.
    """
    _apply(module, lambda role, weight: nn.init.kaiming_normal_(weight, mode=mode, nonlinearity="relu"))


def xavier(module: nn.Module, **gains: float) -> None:
    r"""Draw every weight from $N(0, 2 g^2 / (\text{fan}_{in} + \text{fan}_{out}))$ with one gain g a role, 1 where none
    is given.

    `xavier(block, output=0.5, value=0.5)`. Raises `ValueError` for an unknown role. Citation: vaswani2017attention.
    """
    for role in gains:
        if role not in WEIGHTS:
            raise ValueError(f"unknown role {role!r}; allowed: {', '.join(WEIGHTS)}")
    _apply(module, lambda role, weight: nn.init.xavier_normal_(weight, gain=gains.get(role, 1.0)))


def deepnorm_alpha(depth: int) -> float:
    r"""DeepNorm's scale of the skip, $\alpha = (2N)^{1/4}$ for the N layers of an encoder or decoder.

    `depth`: the number of residual branches of the stack, $2N$. Citation: wang2022deepnet.
    """
    return depth**0.25


def deepnorm_beta(depth: int) -> float:
    r"""DeepNorm's gain of the initialisation, $\beta = (8N)^{-1/4}$ for the N layers of an encoder or decoder.

    `depth`: the number of residual branches of the stack, $2N$. Citation: wang2022deepnet.
    """
    return (4 * depth) ** -0.25


def deepnorm(module: nn.Module, beta: float) -> None:
    r"""Xavier with the gain $\beta$ on the MLP, the values and the outputs, and 1 on queries and keys.

    The second half of DeepNorm: the first is $\alpha$ on the skip. Citation: wang2022deepnet.
    """
    xavier(module, value=beta, output=beta, hidden=beta, kernel=beta)


def magneto(module: nn.Module, depth: int) -> None:
    r"""Xavier with the gain $\sqrt{\ln 2N}$ on the MLP, the values and the outputs, and 1 on queries and keys.

    `depth`: the number of residual branches of the stack, $2N$. The second half of Sub-LN: its norms inside the branches
    let the weights be larger than DeepNorm's. Raises `ValueError` below 2 branches. Citation: wang2022magneto.
    """
    if depth < 2:
        raise ValueError(f"magneto: depth={depth}; its gain is 0 below 2 residual branches")
    gain = math.log(depth) ** 0.5
    xavier(module, value=gain, output=gain, hidden=gain, kernel=gain)


def unit_gain(module: nn.Module) -> None:
    r"""Make every ReLU branch keep the mean square of its input: $E\,F(x)^2 = E\,x^2$, with F(x) of mean 0 and
    uncorrelated with x.

    For $F(x) = W_2\, \mathrm{relu}(W_1 x)$ draw $W_1 \sim N(0, 2/\text{fan}_{in})$, since ReLU halves a symmetric mean
    square, and $W_2 \sim N(0, 1/\text{fan}_{in})$, which also makes F(x) symmetric around 0 whatever x is. A
    convolution follows a ReLU, and is drawn from $N(0, 2/\text{fan}_{in})$. The closed forms of the depth laws assume
    such branches.
    Raises `ValueError` for attention, whose gain depends on its input, and for another activation.
    """
    _needs_relu("unit_gain", module)

    def rule(role: str, weight: Tensor) -> None:
        if role not in ("shortcut", "gate"):
            fan_in = weight[0].numel()
            weight.normal_(0, math.sqrt((1 if role == "output" else 2) / fan_in))

    _apply(module, rule)


def _needs_relu(rule: str, module: nn.Module) -> None:
    for child in module.modules():
        if getattr(child, "activation", "relu") != "relu":
            raise ValueError(f"{rule} is derived for ReLU, got an MLP with {child.activation!r}; use mlp(activation='relu')")
    if any(role == "query" for role, _ in roles(module)):
        raise ValueError(f"{rule}: the gain of attention depends on its input; use xavier, or a branch mlp()")


@torch.no_grad()
def fixup(module: nn.Module, depth: int) -> None:
    r"""Start every residual branch at 0, and shrink its other weights with the depth: $L^{-1/(2m-2)}$ times He's.

    m is the number of weights in a row in the branch, of which the last is set to 0; `depth` is L, the number of
    residual branches of the network. The rest of Fixup belongs to the network: a classifier of zeros (`initialise`
    with its `head`), scalar biases (the norm `scalar_bias`) and multipliers (`add(learn="gain")`). Branches that no
    merge adds keep He's weights. Raises `ValueError` for attention, for another activation than ReLU, and
    for weight norm or weight standardisation, which have no filter of zeros. Citation: zhang2019fixup.
    """
    _needs_relu("fixup", module)
    if any(isinstance(child, Convolution) and child.form for child in module.modules()):
        raise ValueError("fixup sets filters to zero, which weight norm and weight standardisation cannot; use conv(weight=None)")
    he(module)
    for block in module.modules():
        if not isinstance(block, Block):
            continue
        paths = [[letter.name for letter in path if letter.symbol in BRANCHES] for path in residual_paths(block.word)]
        weights = {
            name: [weight for role, weight in roles(block.get_submodule(name)) if role != "bias"]
            for name in dict.fromkeys(itertools.chain.from_iterable(paths))
        }
        chains = [[weight for name in path for weight in weights[name]] for path in paths]
        shrunk: set[Tensor] = set()
        for *others, last in sorted(filter(None, chains), key=len, reverse=True):
            last.zero_()
            for weight in set(others) - shrunk:  # branches side by side may share their beginning: the longest counts
                weight.mul_(depth ** (-1 / (2 * len(others))))
            shrunk |= set(others)


@torch.no_grad()
def zero_last_gain(module: nn.Module) -> None:
    r"""Set the gain $\gamma$ of the last norm of every residual branch to 0, so that $x + F(x) = x$ at the start.

    The last norm is the one between a branch and its merge, `CnrC(n)ar` or `nF(n)a`; a norm on the stream is left
    alone.
    Raises `ValueError` where no word has such a norm with a gain. Citation: he2016deep, wu2018group.
    """
    found = False
    for block in module.modules():
        if isinstance(block, Block):
            for name in _last_norms(block.word):
                gain = getattr(block.get_submodule(name), "weight", None)
                if gain is not None:
                    gain.zero_()
                    found = True
    if not found:
        words = sorted({block.word for block in module.modules() if isinstance(block, Block)})
        raise ValueError(
            f"no norm with a gain stands between a branch and its merge in {', '.join(words) or 'the module'}; "
            "use a word such as 'Fna' or 'CnrCnar', with affine=True"
        )


def _last_norms(word: str) -> Iterator[str]:
    """The names of the modules that are the last norm of a branch, the one that no other branch follows."""
    for path in residual_paths(word):
        behind = itertools.takewhile(lambda letter: letter.symbol not in BRANCHES, reversed(path))
        yield from (norm.name for norm in itertools.islice((letter for letter in behind if letter.symbol == "n"), 1))


@torch.no_grad()
def admin(model: nn.Module, *inputs: Tensor) -> None:
    r"""Set the learned skips $\omega_i$ of Admin, $x_{i+1} = n(\omega_i \odot x_i + F_i(x_i))$, from one pass over a batch.

    $$\omega_1 = 1, \qquad \omega_{i+1}^2 = \operatorname{Var}[\omega_i \odot x_i] + \operatorname{Var}[F_i(x_i)]$$

    The variance is over all values, of the pass in which $\omega_i$ is set already. A norm gives $x_i$ the variance 1, and
    so $\omega_{i+1}^2 = \operatorname{Var} x_1 + \sum_{j \le i} \operatorname{Var} F_j$. Branches are counted in the order in
    which they run, in each `Stack` by itself: an encoder, a decoder.
    This is what the authors' code computes. `inputs`: what the model is called with. It runs in the mode that it is in; its
    buffers and the random state stay as they were. Shapes: each skip (features,).
    Raises `ValueError` for a model without such skips. Citation: liu2020understanding.
    """
    stacks = [child for child in model.modules() if isinstance(child, Stack)] or [model]
    stack_of: dict[Add, nn.Module] = {}
    for stack in stacks:  # a stack stands before the stacks inside it
        for child in stack.modules():
            if isinstance(child, Add) and isinstance(child.skip, Tensor) and child.skip.dim():
                stack_of.setdefault(child, stack)
    if not stack_of:
        raise ValueError(
            f"{type(model).__name__} has no skip with a learned number for each feature; build it with variant='admin', or "
            "with a=add(learn='skip', dim=-1)"
        )
    omega: dict[nn.Module, Tensor | float] = dict.fromkeys(stacks, 1.0)

    def set_skip(merge: Add, given: tuple[Tensor, Tensor]) -> None:
        h, x = given
        merge.skip.fill_(omega[stack_of[merge]])
        skip = merge.forward(torch.zeros_like(h), x)
        branch = merge.forward(h, x) - skip
        omega[stack_of[merge]] = (skip.var(correction=0) + branch.var(correction=0)).sqrt()

    _watched(model, inputs, stack_of, set_skip)


@torch.no_grad()
def from_data(model: nn.Module, *inputs: Tensor) -> None:
    r"""Set gains and biases of weight-normalised convolutions so that a first batch leaves each with mean 0 and deviation 1.

    $$t = \frac{w * x}{\lVert w \rVert}, \qquad g = \frac{1}{\sigma[t]}, \qquad b = -\frac{\mu[t]}{\sigma[t]}$$

    with the statistics of each channel over batch and positions, in the order in which the convolutions run: each sees what
    those before it give with their new gains. Where there is no bias, or no spread (a branch that is closed), that part stays
    as it is. `inputs`: what the model is called with. It runs in the mode that it is in; its buffers and the random state stay
    as they were. Shapes: gain and bias (out,). Raises `ValueError` for a model without weight-normalised convolutions.
    Citation: salimans2016weight.
    """
    convolutions = [child for child in model.modules() if isinstance(child, Convolution) and child.form == "norm"]
    if not convolutions:
        raise ValueError(
            f"{type(model).__name__} has no weight-normalised convolution; build it with weight='norm', as in conv(weight='norm')"
        )

    def start(convolution: Convolution, given: tuple[Tensor]) -> None:
        bias = convolution.bias
        convolution.gain.fill_(1.0)
        if bias is not None:
            bias.zero_()
        deviation, mean = torch.std_mean(convolution.forward(*given).float(), (0, 2, 3), correction=0)
        scale = torch.where(deviation > 0, 1 / deviation, 1.0)
        convolution.gain.copy_(scale)
        if bias is not None:
            bias.copy_(-mean * scale)

    _watched(model, inputs, convolutions, start)


def _watched(model: nn.Module, inputs: tuple[Tensor, ...], modules: Iterable[nn.Module], hook: Callable[..., None]) -> None:
    """Call a model with a hook before each of these modules; buffers and the random state stay as they were."""
    handles = [module.register_forward_pre_hook(hook) for module in modules]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng({tensor.device for tensor in inputs if tensor.is_cuda}):
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for buffer, before in buffers:
            buffer.copy_(before)


def unit_weights(module: nn.Module) -> Iterator[tuple[Tensor, int]]:
    """Yield (weight, axis) for every weight inside a module whose vectors along that axis have length 1 (nGPT)."""
    for child in module.modules():
        if hasattr(child, "unit_weights"):
            yield from child.unit_weights()


@torch.no_grad()
def project(weights: Iterable[tuple[Tensor, int]]) -> None:
    r"""Bring the vectors of weights to length 1, $w \leftarrow w / \lVert w \rVert_2$: `project(unit_weights(model))`.

    `initialise` does so before training, and `resnorm.training.fit` after every step. Citation: loshchilov2024ngpt.
    """
    for weight, axis in weights:
        weight.copy_(nn.functional.normalize(weight, dim=axis))


RULES: dict[str, Callable[[nn.Module, int], None]] = {
    "he": lambda module, depth: he(module),
    "xavier": lambda module, depth: xavier(module),
    "deepnorm": lambda module, depth: deepnorm(module, deepnorm_beta(depth)),
    "magneto": magneto,
    "fixup": fixup,
    "unit_gain": lambda module, depth: unit_gain(module),
    "zero_last_gain": lambda module, depth: zero_last_gain(module),
}


def initialise(module: nn.Module, rule: str, depth: int, head: nn.Linear | None = None) -> None:
    """Apply a rule by its name; `depth` is the number of residual branches of the whole network.

    `head`: the network's classifier, which Fixup sets to zero and the other rules leave alone. What has `unit_weights` is
    then projected. Raises `ValueError` for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule of initialisation {rule!r}; allowed: {', '.join(RULES)}")
    RULES[rule](module, depth)
    project(unit_weights(module))
    if rule == "fixup" and head is not None:
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
