"""The recursive skip in closed form: equal to the recursion, in every type, on every device that is there."""

import copy
import inspect
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import resnorm.recursion as module
from resnorm import Block, Stack, compiled, mlp
from resnorm.catalog import variant
from resnorm.recursion import closed_form, cpu, fuse, recursion, recursive_skip, recursive_skip_steps

ROOT = Path(__file__).resolve().parent.parent
ORDERS = (1, 2, 3, 4, 5)
KERNEL = pytest.mark.skipif(cpu.library() is None, reason="no C++ compiler makes the kernel here")
# Largest difference to float64, relative to the largest value.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.003}


@pytest.fixture
def always(monkeypatch):
    """The kernel also where the recursion as written would be faster."""
    monkeypatch.setattr(module, "SMALL", 0)


def inputs(shape, dtype=torch.float64, weak=None):
    generator = torch.Generator().manual_seed(1)
    x, h, gradient = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    weight, bias = (torch.randn(shape[-1], generator=generator, dtype=torch.float64) for _ in range(2))
    match weak:
        case "h = -x":
            h = -x
        case "h = -2x":
            # The first output is -x: the second sum nearly vanishes.
            x = F.layer_norm(x, x.shape[-1:], eps=0.0)
            h = 1e-3 * h - 2 * x
        case "h = 1e10 x":
            x = 1e-10 * x
        case "h = 1e22 x":
            x = 1e-22 * x
        case "h = x":
            h = x.clone()
        case "constant rows":
            x, h = torch.full_like(x, 3.0), torch.full_like(h, -1.0)
        case "zero":
            x, h = torch.zeros_like(x), torch.zeros_like(h)
        case "small":
            x, h = 1e-4 * x, 1e-4 * h
        case "large":
            x, h = 1e4 * x, 1e4 * h
    affine = torch.float64 if dtype == torch.float64 else torch.float32
    return [t.to(dtype) for t in (x, h)], [t.to(affine) for t in (weight, bias)], gradient.to(dtype)


def both(function, exact, tensors, gradient):
    """Output and gradients of a function, and those of another in float64 on the same values."""
    found = []
    for one, double in ((function, False), (exact, True)):
        given = [t.detach().double() if double else t.detach().clone() for t in tensors]
        given = [t.requires_grad_() for t in given]
        y = one(*given)
        found.append((y.detach(), *torch.autograd.grad(y, given, gradient.to(y.dtype))))
    return found


def close(ours, exact, tolerance):
    for a, b in zip(ours, exact, strict=True):
        assert a.isfinite().all()
        assert (a.double() - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


@pytest.mark.parametrize("order", ORDERS)
def test_closed_form_equals_the_recursion(order):
    (x, h), affine, gradient = inputs((6, 33))
    ours, exact = both(
        lambda *t: closed_form(t[0], t[1], order, *t[2:]),
        lambda *t: recursion(t[0], t[1], order, *t[2:]),
        [x, h, *affine],
        gradient,
    )
    close(ours, exact, 1e-12)


@KERNEL
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(7, 33), (3, 5, 129), (4, 1), (20, 7), (2, 1000), (1, 3000)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_kernel_equals_the_recursion(always, order, shape, dtype):
    (x, h), affine, gradient = inputs(shape, dtype)
    ours, exact = both(
        lambda *t: recursive_skip(t[0], t[1], order, *t[2:]),
        lambda *t: recursion(t[0], t[1], order, *t[2:]),
        [x, h, *affine],
        gradient,
    )
    assert ours[0].dtype == dtype and ours[3].dtype == affine[0].dtype
    close(ours, exact, TOLERANCE[dtype])


@KERNEL
@pytest.mark.parametrize(
    "weak", ["h = -x", "h = -2x", "h = 1e10 x", "h = 1e22 x", "h = x", "constant rows", "zero", "small", "large"]
)
@pytest.mark.parametrize("order", [1, 2, 4])
def test_kernel_on_weak_rows(always, weak, order):
    for dtype in (torch.float64, torch.float32):
        (x, h), affine, gradient = inputs((5, 40), dtype, weak)
        ours, exact = both(
            lambda *t: recursive_skip(t[0], t[1], order, *t[2:]),
            lambda *t: recursion(t[0], t[1], order, *t[2:]),
            [x, h, *affine],
            gradient,
        )
        close(ours, exact, 1e-10 if dtype == torch.float64 else 1e-3)


@KERNEL
@pytest.mark.parametrize("weak", [None, "h = -2x", "h = 1e10 x"])
@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernel_is_no_worse_than_the_recursion_in_the_same_type(always, dtype, order, weak):
    (x, h), affine, gradient = inputs((200, 100), dtype, weak)
    tensors = [x, h, *(t.to(dtype) for t in affine)]
    written = lambda *t: recursion(t[0], t[1], order, *t[2:])  # noqa: E731
    ours, exact = both(lambda *t: recursive_skip(t[0], t[1], order, *t[2:]), written, tensors, gradient)
    theirs, _ = both(written, written, tensors, gradient)
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert (a.double() - c).norm() <= 3 * (b.double() - c).norm()


@KERNEL
def test_kernel_takes_tensors_without_affine_map_and_of_any_layout(always):
    (x, h), _, gradient = inputs((6, 5, 33))
    ours, exact = both(lambda x, h: recursive_skip(x, h, 3), lambda x, h: recursion(x, h, 3), [x, h], gradient)
    close(ours, exact, 1e-12)
    turned = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (x, h)]
    assert torch.equal(recursive_skip(*turned, 3), recursive_skip(x, h, 3))
    assert torch.equal(recursive_skip(x[:, :, ::2], h[:, :, ::2], 2), recursive_skip(x[:, :, ::2].clone(), h[:, :, ::2].clone(), 2))
    mixed = recursive_skip(x.float(), h.bfloat16(), 2)
    assert mixed.dtype == torch.float32
    assert recursive_skip(x[:0], h[:0], 2).shape == (0, 5, 33)


@KERNEL
def test_same_threads_give_the_same_bits(always):
    (x, h), affine, gradient = inputs((999, 64), torch.float32)
    runs = [
        both(lambda *t: recursive_skip(t[0], t[1], 3, *t[2:]), recursion_of_three, [x, h, *affine], gradient)[0] for _ in range(3)
    ]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def recursion_of_three(x, h, weight, bias):
    return recursion(x, h, 3, weight, bias)


@KERNEL
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("order", [1, 3])
def test_second_derivatives_equal_those_of_the_recursion(always, order, affine):
    (x, h), maps, _ = inputs((3, 5))
    given = [tensor.requires_grad_() for tensor in (x, h, *(maps if affine else []))]
    assert torch.autograd.gradgradcheck(lambda x, h, *maps: recursive_skip(x, h, order, *maps), given)
    weights, biases = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    steps = lambda x, h, weights, biases: recursive_skip_steps(x, h, list(weights), list(biases))  # noqa: E731
    assert torch.autograd.gradgradcheck(steps, (x, h, weights, biases))


@KERNEL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_penalty_goes_through_the_kernel_at_full_size(dtype):
    torch.manual_seed(0)
    start, affine = torch.randn(600, 64, dtype=dtype), [torch.randn(64, dtype=dtype) for _ in range(2)]
    assert start.numel() > module.SMALL
    results = []
    for function in (recursive_skip, recursion):
        x, weight, bias = given = [tensor.clone().requires_grad_() for tensor in (start, *affine)]
        h = (2 * x).tanh()  # a function of x: the penalty needs partial derivatives at this place
        first = torch.autograd.grad(function(x, h, 3, weight, bias).pow(3).sum(), given, create_graph=True)
        penalty = sum(one.float().square().sum() for one in first).sqrt()
        results.append((*first, *torch.autograd.grad(penalty, given)))
    for one, other in zip(*results, strict=True):
        assert one.dtype == dtype and one.isfinite().all()
        assert (one - other).norm() <= TOLERANCE[dtype] * 10 * other.norm()


@KERNEL
@pytest.mark.parametrize("affine", ["last", "step"])
@pytest.mark.parametrize("rows", [4, 4096])
def test_a_fused_model_takes_a_gradient_penalty(affine, rows):
    model = fuse(Stack([variant("rskip_norm").block(32, order=2, affine=affine) for _ in range(2)]))
    x = torch.randn(rows, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x).pow(2).sum(), x, create_graph=True)
    gradient.norm().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@KERNEL
@pytest.mark.filterwarnings("ignore")  # torch's own: it still scripts the forward derivatives
def test_forward_derivatives_go_through(always):
    (x, h), _, tangent = inputs((4, 9))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        made = [function(dual, h, 3) for function in (recursive_skip, recursion)]
        ours, theirs = (torch.autograd.forward_ad.unpack_dual(y).tangent for y in made)
        assert torch.equal(ours, theirs)


@KERNEL
def test_nan_and_infinity_are_not_hidden(always):
    for bad in (math.nan, math.inf):
        x, h = torch.randn(4, 40), torch.randn(4, 40)
        h[2, 5] = bad
        y = recursive_skip(x, h, 3)
        assert y[2].isnan().any() and y[[0, 1, 3]].isfinite().all()
        assert recursive_skip(x.bfloat16(), h.bfloat16(), 3)[2].isnan().any()


@KERNEL
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck looks at it
def test_operator_follows_torchs_rules_and_compiles_without_a_break(always):
    (x, h), affine, _ = inputs((8, 40), torch.float32)
    given = [t.requires_grad_() for t in (x, h, *affine)]
    torch.library.opcheck(torch.ops.resnorm.recursive_skip.default, (given[0], given[1], 3, given[2], given[3], 1e-5))
    compiled = torch.compile(lambda x, h, w, b: recursive_skip(x, h, 3, w, b).sin(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), recursion(given[0], given[1], 3, *given[2:]).sin(), rtol=1e-4, atol=1e-5)


def test_small_tensors_and_machines_without_a_compiler_run_the_recursion_as_written(monkeypatch):
    called = []
    monkeypatch.setattr(module, "recursion", lambda *given: called.append(given[2]) or given[0])
    recursive_skip(torch.randn(4, 8), torch.randn(4, 8), 2)
    monkeypatch.setattr(cpu, "library", lambda: None)
    recursive_skip(torch.randn(1000, 100), torch.randn(1000, 100), 3)
    assert called == [2, 3]


def test_no_compiler_is_no_error(monkeypatch):
    for compiler in ("/nowhere/compiler", "false"):
        monkeypatch.setenv("CXX", compiler)
        compiled.library.cache_clear()
        assert cpu.library() is None
    monkeypatch.undo()
    compiled.library.cache_clear()


@pytest.mark.parametrize("order", [0, -1, 1.5, True])
def test_an_impossible_order_is_named(order):
    with pytest.raises(ValueError, match=f"order={order}; the order of a recursive skip is an integer of 1 or more"):
        recursive_skip(torch.randn(2, 3), torch.randn(2, 3), order)


def test_shapes_and_steps_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"x has the shape \(2, 3\) and h \(2, 4\)"):
        recursive_skip(torch.randn(2, 3), torch.randn(2, 4), 1)
    x = torch.randn(1000, 64)
    for weight in (torch.ones(16), torch.ones(1), torch.ones(64, 1), torch.ones(64, device="meta")):
        with pytest.raises(ValueError, match=r"a gain or bias has the shape .*; rows of \(1000, 64\) on cpu need \(64,\)"):
            recursive_skip(x, x, 2, weight, torch.zeros_like(weight))
    with pytest.raises(ValueError, match="x is on cpu and h on meta"):
        recursive_skip(x, x.to("meta"), 2)
    with pytest.raises(ValueError, match="1 gains and 2 biases"):
        recursive_skip_steps(torch.randn(2, 3), torch.randn(2, 3), [torch.ones(3)], [torch.ones(3)] * 2)


def test_steps_equal_the_norms_one_by_one():
    (x, h), _, _ = inputs((5, 9))
    weights, biases = torch.randn(3, 9).double(), torch.randn(3, 9).double()
    expected = h
    for weight, bias in zip(weights, biases, strict=True):
        expected = F.layer_norm(x + expected, (9,), weight, bias)
    assert torch.equal(recursive_skip_steps(x, h, list(weights), list(biases)), expected)


@KERNEL
def test_transforms_of_torch_func_go_through(always):
    x, h = torch.randn(3, 4, 40), torch.randn(3, 4, 40)
    of_x = torch.func.grad(lambda x, h: recursive_skip(x, h, 2).pow(3).sum())
    torch.testing.assert_close(torch.func.vmap(of_x)(x, h), of_x(x, h))


def test_import_leaves_the_compiler_alone():
    code = "import sys, torch, resnorm.words; print(sorted({'torch._dynamo', 'torch._inductor', 'triton'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------- in a block


def paired(word, **letters):
    """A fused block and its twin that runs step by step, with the same parameters."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(Block(word, 16, **letters))
    fuse(made[0])
    for block in made:
        for parameter in block.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    return made


@KERNEL
@pytest.mark.parametrize("affine", ["last", "step", "shared"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_block_takes_the_kernel_and_stays_itself(always, monkeypatch, affine, order):
    calls = []
    monkeypatch.setattr(module, "recursive_skip", lambda *given: calls.append(given[2]) or recursive_skip(*given))
    chosen = variant("rskip_norm")
    settings = chosen.settings_for(order=order, affine=affine, n="layer")
    fused, stepwise = paired(chosen.spell(order=order, affine=affine), F=mlp(), **settings)
    assert list(fused.state_dict()) == list(stepwise.state_dict())
    x = torch.randn(6, 10, 16)
    results = []
    for block in (fused, stepwise):
        given = x.clone().requires_grad_()
        y = block(given)
        results.append((y, *torch.autograd.grad(y.square().sum(), [given, *block.parameters()])))
    assert calls == ([order] if affine == "last" and order > 1 else [])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@KERNEL
def test_a_block_on_images_takes_the_kernel_in_channels_last(always, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "recursive_skip", lambda *given: calls.append(1) or recursive_skip(*given))
    last = variant("rskip_norm").settings_for(order=2, affine="last", n="layer2d")
    fused, stepwise = paired("Fanan", F=lambda width: nn.Conv2d(width, width, 3, padding=1), **last)
    x = torch.randn(2, 16, 6, 5)
    expected = stepwise(x)
    torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)
    assert not calls
    fused.to(memory_format=torch.channels_last)
    y = fused(x.contiguous(memory_format=torch.channels_last))
    assert calls and y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


@KERNEL
def test_a_norm_that_was_replaced_is_called(always):
    block = fuse(variant("rskip_norm").block(16, order=2, affine="last"))
    block._modules["2_n"] = nn.Identity()
    x = torch.randn(4, 16)
    h = block._modules["0_F"](x)
    torch.testing.assert_close(block(x), block._modules["4_n"](x + (x + h)))


@KERNEL
def test_a_branch_whose_output_is_broadcast_or_too_wide_meets_the_norms(always):
    class Mean(nn.Module):
        def __init__(self, width):
            super().__init__()

        def forward(self, x):
            return x.mean(1, keepdim=True)

    for affine in ("last", "step"):
        block = fuse(variant("rskip_norm").block(16, order=2, affine=affine, F=Mean))
        x = torch.randn(4, 10, 16)
        torch.testing.assert_close(block(x), recursion(x, x.mean(1, keepdim=True).expand_as(x), 2))
        with pytest.raises(RuntimeError, match=r"normalized_shape=\[16\]"):
            block(torch.randn(4, 10, 64))


@KERNEL
def test_a_stack_trains_through_the_kernel(always):
    blocks = [variant("rskip_norm").block(16, order=3, affine="last") for _ in range(3)]
    model = fuse(Stack(blocks))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, target = torch.randn(64, 16), torch.randn(64, 16)
    losses = []
    for _ in range(30):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_batch_norm_words_run_step_by_step():
    block = fuse(Block("Fanan", 8, F=mlp(), n="batch"))
    assert [step.symbol for step in block.plan[0]] == list("Fanan")


@KERNEL
@pytest.mark.parametrize(
    "watch",
    ["norm", "sum", "norm_backward", "sum_pre", "every_module", "every_backward", "class", "sum_class", "scalar", "eps", "forward"],
)
def test_a_fused_block_calls_its_modules_where_somebody_watches_or_has_changed_one(always, monkeypatch, watch):
    calls, seen = [], []
    monkeypatch.setattr(module, "recursive_skip", lambda *given: calls.append(1) or recursive_skip(*given))
    block = fuse(variant("rskip_norm").block(16, order=3, affine="last"))
    keys, x = list(block.state_dict()), torch.randn(4, 16)
    block(x)
    assert len(calls) == 1
    norm, merge = block.get_submodule("2_n"), block.get_submodule("3_a")
    see = lambda *given: seen.append(given[0])  # noqa: E731
    handle = None
    if watch == "norm":
        handle = norm.register_forward_hook(see)
    elif watch == "sum":
        handle = merge.register_forward_hook(see)
    elif watch == "norm_backward":
        handle = norm.register_full_backward_hook(see)
    elif watch == "sum_pre":
        handle = merge.register_forward_pre_hook(see)
    elif watch == "every_module":
        handle = nn.modules.module.register_module_forward_hook(see)
    elif watch == "every_backward":
        handle = nn.modules.module.register_module_full_backward_hook(see)
    elif watch == "class":
        block.add_module("2_n", nn.Identity())
    elif watch == "sum_class":
        block.add_module("3_a", Difference())
    elif watch == "scalar":
        merge.skip = 2.0
    elif watch == "eps":
        norm.eps = 0.5
    elif watch == "forward":
        norm.forward = torch.tanh
    steps = copy.deepcopy(block)
    steps.plan = Block("F" + "an" * 3, 16, F=mlp(), n="layer").plan
    try:
        y = block(x.requires_grad_())
        torch.testing.assert_close(y, steps(x))
        y.sum().backward()
    finally:
        if handle is not None:
            handle.remove()
    assert len(calls) == 1 and list(block.state_dict()) == keys
    if handle is not None:
        assert norm in seen or merge in seen
        block(x)
        assert len(calls) == 2


class Difference(nn.Module):
    def forward(self, h, x):
        return h - x


@KERNEL
def test_a_recursion_inside_a_bracket_is_fused_too(always, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "recursive_skip", lambda *given: calls.append(given[2]) or recursive_skip(*given))
    letters = dict(F=mlp(), n="layer(affine=False)")
    fused, stepwise = paired("n[Fanan,F]a Fananan", **letters)
    x = torch.randn(3, 16)
    torch.testing.assert_close(fused(x), stepwise(x), rtol=1e-4, atol=1e-5)
    assert calls == [2, 3]
    for copied in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(copied(x), fused(x))
    torch.testing.assert_close(torch.compile(fused, fullgraph=True, backend="aot_eager")(x), fused(x))


# ------------------------------------------------------------------------------- Triton


triton = pytest.importorskip("triton") if sys.platform == "linux" else None
TRITON = pytest.mark.skipif(triton is None, reason="Triton comes with torch on Linux only")


@TRITON
def test_triton_kernels_in_the_interpreter():
    code = """
import torch
import resnorm.recursion as module
from resnorm.recursion import cuda

def check(ours, function, tensors, gradient, tolerance):
    given = [t.double().requires_grad_() for t in tensors]
    y = function(*given)
    for a, b in zip(ours, (y, *torch.autograd.grad(y, given, gradient.double())), strict=True):
        error = (a.double() - b).abs().max() / max(1.0, b.abs().max())
        assert error < tolerance, (tolerance, error)

def steps(x, h, weights, biases):
    for weight, bias in zip(weights, biases):
        h = torch.nn.functional.layer_norm(x + h, x.shape[-1:], weight, bias)
    return h

torch.manual_seed(0)
for dtype, tolerance in ((torch.float32, 2e-5), (torch.bfloat16, 0.02), (torch.float16, 0.004)):
    for order, shape in ((1, (3, 33)), (2, (9, 129)), (4, (2, 70)), (2, (5, 1))):
        x, h, g = (torch.randn(shape).to(dtype) for _ in range(3))
        if order == 4:
            h = (0.01 * h.float() - 2 * x.float()).to(dtype)  # where the second sum vanishes
        elif order == 1:
            x *= 1e-20
        w, b = torch.randn(order, shape[-1]), torch.randn(order, shape[-1])
        last = w[0], b[0]
        ours = cuda.forward(x, h, order, *last, 1e-5), *cuda.backward(g, x, h, order, last[0], 1e-5)
        check(ours, lambda x, h, w, b: module.recursion(x, h, order, w, b), [x, h, *last], g, tolerance)
        ours = cuda.forward(x, h, order, None, None, 1e-5), *cuda.backward(g, x, h, order, None, 1e-5)[:2]
        check(ours, lambda x, h: module.recursion(x, h, order), [x, h], g, tolerance)
        ours = cuda.forward_steps(x, h, w, b, 1e-5), *cuda.backward_steps(g, x, h, w, b, 1e-5)
        check(ours, steps, [x, h, w, b], g, tolerance)
# The operator of the steps, as autograd knows it: its first derivative is the kernel's, its second the written recursion's.
given = [t.requires_grad_() for t in (torch.randn(3, 9), torch.randn(3, 9), torch.randn(2, 9), torch.randn(2, 9))]
for recorded in (False, True):
    found = []
    for function in (lambda *t: torch.ops.resnorm.recursive_skip_steps(*t, 1e-5), steps):
        first = torch.autograd.grad(function(*given).pow(3).sum(), given, create_graph=recorded)
        second = torch.autograd.grad(sum(t.square().sum() for t in first), given) if recorded else ()
        found.append([*first, *second])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()
print("all equal")
"""
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "all equal", done.stderr[-2000:]


@TRITON
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kernel", ["_forward", "_backward", "_forward_steps", "_backward_steps"])
def test_triton_kernels_compile_for_gpus(kernel):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from resnorm.recursion import cuda

    function = getattr(cuda, kernel)
    sizes = dict(rows="i32", width="i32", eps="fp32")
    constants = dict(order=3, block=256) | ({} if "steps" in kernel else dict(affine=True))
    pointers = {name: "*bf16" if name in ("X", "H", "Y", "G", "DX", "DH") else "*fp32" for name in function.arg_names}
    signature = {name: "constexpr" if name in constants else sizes.get(name, pointers[name]) for name in function.arg_names}
    given = "constexprs" if "constexprs" in inspect.signature(ASTSource).parameters else "constants"  # before triton 3.3
    source = ASTSource(fn=function, signature=signature, **{given: constants})
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=4))
    assert made.asm["cubin"]


@pytest.mark.gpu
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(7, 33), (3, 5, 129), (300, 1024), (2, 5000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gpu_equals_the_recursion(order, shape, dtype, monkeypatch):
    monkeypatch.setattr(module, "SMALL_ON_GPU", 0)
    (x, h), affine, gradient = inputs(shape, dtype)
    tensors, gradient = [t.cuda() for t in (x, h, *affine)], gradient.cuda()
    ours, exact = both(
        lambda *t: recursive_skip(t[0], t[1], order, *t[2:]), lambda *t: recursion(t[0], t[1], order, *t[2:]), tensors, gradient
    )
    close(ours, exact, TOLERANCE[dtype])
    weights, biases = (torch.stack([t] * order) for t in tensors[2:])
    ours, exact = both(
        lambda x, h, w, b: recursive_skip_steps(x, h, list(w), list(b)), stepwise, [*tensors[:2], weights, biases], gradient
    )
    close(ours, exact, 4 * TOLERANCE[dtype])


@pytest.mark.gpu
def test_kernels_run_on_a_gpu_where_they_pay():
    small = torch.randn(4, 8, device="cuda")
    large = torch.randn(module.SMALL_ON_GPU // 1024, 1024, device="cuda")
    assert module._fused(large, large, 2) and not module._fused(small, small, 2)
    weight, bias = torch.randn(2, 8, device="cuda")
    expected = recursion(small, small, 3, weight, bias)
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        assert module._fused(small, small, 2)
        recursive_skip(small, small, 3, weight, bias)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        found = recursive_skip(small, small, 3, weight, bias)
    found.zero_()
    graph.replay()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_gpu_keeps_float64():
    (x, h), affine, gradient = inputs((7, 33))
    ours, exact = both(
        lambda *t: recursive_skip(t[0], t[1], 3, *t[2:]),
        lambda *t: recursion(t[0], t[1], 3, *t[2:]),
        [t.cuda() for t in (x, h, *affine)],
        gradient.cuda(),
    )
    close(ours, exact, 1e-12)


def stepwise(x, h, weights, biases):
    for weight, bias in zip(weights, biases, strict=True):
        h = F.layer_norm(x + h, x.shape[-1:], weight, bias)
    return h
