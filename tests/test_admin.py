"""Admin: the skips that one pass over a batch sets, against the recursion written by hand."""

import pytest
import torch
from torch import nn

from resnorm import init, lab
from resnorm.data import load
from resnorm.lab import Experiment, Store
from resnorm.letters import Add, add
from resnorm.models import build, cifar_resnet, mlp_stack, seq2seq, transformer_lm
from resnorm.training import Recipe, fit
from resnorm.training.batches import first_inputs
from resnorm.words import Block

TOKENS = torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(3))
SMALL = dict(vocabulary=11, context=6, depth=3, width=16)
RUN = Experiment(
    task=dict(name="digits"),
    model=dict(name="mlp_stack", depth=3, width=16, variant="admin"),
    recipe=dict(epochs=1, batch_size=256, lr=1e-6),
)


def made(make=transformer_lm, **options):
    torch.manual_seed(0)
    return make(**options).double()


def skips(model):
    """The skips in the order of the modules, which is that of a plain stack's branches."""
    return [child.skip for child in model.modules() if isinstance(child, Add)]


def by_hand(stack, x, **inputs):
    """The recursion over the branches of a stack of `Fan`s, with functions in place of the package's own blocks."""
    omegas, omega = [], torch.ones((), dtype=x.dtype)
    for block in stack.blocks:
        letters = iter(block.named_children())
        for (name, branch), _, (_, norm) in zip(letters, letters, letters, strict=True):
            given = inputs.get(name[-1], {})
            branch = branch(x, **given)
            omegas.append(omega)
            x, omega = norm(omega * x + branch), ((omega * x).var(correction=0) + branch.var(correction=0)).sqrt()
    return x, torch.stack(omegas)


def check(found, expected):
    assert all((skip == skip[0]).all() for skip in found), "the features of one branch start at one number"
    torch.testing.assert_close(torch.stack([skip[0] for skip in found]), expected)


@torch.no_grad()
def test_the_skips_of_a_transformer_follow_the_recursion():
    model = made(**SMALL, variant="admin")
    init.admin(model, TOKENS)
    x = model.token(TOKENS) + model.position.weight[:6]
    _, omegas = by_hand(model.stack, x)
    check(skips(model), omegas)
    assert omegas[0] == 1 and (omegas.diff()[1:] > 0).all() and len(omegas) == 6


@torch.no_grad()
def test_the_skips_are_the_sum_of_the_variances_where_the_norms_keep_1():
    model = made(mlp_stack, inputs=5, classes=3, depth=4, width=16, variant="admin")
    x = torch.randn(7, 5, dtype=torch.float64)
    seen = {}
    for i, block in enumerate(model.stack.blocks):
        block.get_submodule("0_F").register_forward_hook(lambda _, given, h, i=i: seen.__setitem__(i, (given[0], h)))
    init.admin(model, x)
    variances = torch.stack([seen[0][0].var(correction=0), *(seen[i][1].var(correction=0) for i in range(3))])
    found = torch.stack([skip[0] for skip in skips(model)])
    # eps, 1e-5 in a layer norm, takes a little from a variance of 1
    torch.testing.assert_close(found[1:] ** 2, variances.cumsum(0)[1:], rtol=1e-4, atol=0)


@torch.no_grad()
def test_encoder_and_decoder_are_profiled_each_by_itself():
    model = made(seq2seq, vocabulary=11, context=6, depth=2, width=16, heads=2, dropout=0.0, variant="admin")
    init.admin(model, TOKENS, TOKENS)
    x = model.embed(TOKENS)
    mask = (TOKENS != 0)[:, None, None]
    memory, encoder = by_hand(model.encoder, x, A={"mask": mask})
    _, decoder = by_hand(model.decoder, x, X={"memory": memory, "mask": mask})
    check(skips(model.encoder), encoder)
    check(skips(model.decoder), decoder)
    assert decoder[0] == 1 and len(decoder) == 6


def test_profiling_twice_gives_the_same_and_leaves_everything_else():
    model = made(**SMALL, variant="admin", dropout=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    init.admin(model, TOKENS)
    first = [skip.clone() for skip in skips(model)]
    random = torch.get_rng_state()
    init.admin(model, TOKENS)
    assert torch.equal(random, torch.get_rng_state()) and all(map(torch.equal, first, skips(model)))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, _ in model.named_parameters() if name.endswith("a.skip")} - {"stack.blocks.0.2_a.skip"}
    assert model.training and not any(child._forward_pre_hooks for child in model.modules())


def test_images_have_a_skip_for_each_channel_and_keep_their_running_statistics():
    torch.manual_seed(0)
    model, x = cifar_resnet(depth=8, width=8, variant="admin"), torch.randn(4, 3, 8, 8)
    init.admin(model, x)
    assert [skip.shape for skip in skips(model)] == [(8,), (16,), (32,)] and skips(model)[-1][0] > skips(model)[0][0] == 1
    assert all((buffer == 0).all() for name, buffer in model.named_buffers() if name.endswith(("mean", "tracked")))


def test_without_a_profile_it_is_post_norm():
    for make, x, options in (
        (transformer_lm, TOKENS, SMALL),
        (mlp_stack, torch.randn(7, 5, dtype=torch.float64), dict(inputs=5, classes=3)),
        (cifar_resnet, torch.randn(2, 3, 8, 8, dtype=torch.float64), dict(depth=8, width=8)),
    ):
        admin, post = made(make, **options, variant="admin"), made(make, **options, variant="post")
        missing, unexpected = post.load_state_dict(admin.state_dict(), strict=False)
        assert not missing and all(name.endswith("a.skip") for name in unexpected)
        assert torch.equal(admin(x), post(x))


@torch.no_grad()
def test_a_profiled_network_depends_less_on_its_branches():
    changes, x = [], torch.randn(64, 5, dtype=torch.float64)
    for variant in ("post", "admin"):
        model = made(mlp_stack, inputs=5, classes=3, depth=24, width=32, variant=variant)
        if variant == "admin":
            init.admin(model, x)
        before = model(x)
        torch.manual_seed(1)
        for role, weight in init.roles(model):
            if role != "bias":
                weight.mul_(1 + 0.1 * torch.randn_like(weight))
        changes.append((model(x) - before).square().mean().sqrt())
    assert changes[1] < 0.75 * changes[0]


def test_gain_and_skip_may_both_be_vectors():
    merge, h, x = add(learn="both", dim=1)(8, 8), torch.randn(2, 8, 3, 3), torch.randn(2, 8, 3, 3)
    nn.init.normal_(merge.skip)
    nn.init.normal_(merge.gain)
    torch.testing.assert_close(merge(h, x), merge.gain[:, None, None] * h + merge.skip[:, None, None] * x)


def test_the_lab_profiles_with_the_first_batch_and_nothing_but_admin(tmp_path, monkeypatch):
    seen = []
    admin = init.admin
    monkeypatch.setattr(init, "admin", lambda model, *inputs: (admin(model, *inputs), seen.append((model, inputs))))
    store = Store(tmp_path)
    record = lab.run(RUN, store, progress=False)
    ((model, (x,)),) = seen
    assert record.status == "finished" and all((skip > 1).all() for skip in skips(model)[1:])
    kept = []
    other = lab.run(RUN.replace("model.variant", "post"), store, progress=False)
    assert other.status == "finished" and len(seen) == 1
    # What `fit` gives a model first.
    data, spy = load("digits"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    spy.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    fit(spy, data, Recipe(epochs=1, batch_size=256), progress=False)
    assert torch.equal(x, kept[0])


def test_a_run_of_the_lab_is_the_same_whenever_it_is_made(tmp_path):
    records = []
    for part in "ab":
        torch.rand(7 if part == "b" else 1)
        records.append(lab.run(RUN.replace("model.depth", 2), Store(tmp_path / part), progress=False))
    first, second = records
    assert first.curves == second.curves


def test_the_first_pairs_are_those_of_the_first_batch_of_like_length():
    data = load("number_pairs", limit=60)
    recipe, kept = Recipe(epochs=1, batch_tokens=400), []
    model = build("seq2seq", data.spec, depth=1, width=8, heads=1)
    model.register_forward_pre_hook(lambda _, given: kept.append(given))
    fit(model, data, recipe, seed=5, progress=False)
    found = first_inputs(data, recipe, 5)
    assert len(found) == 2 and all(map(torch.equal, found, kept[0]))


def test_errors():
    with pytest.raises(ValueError, match="TransformerLM has no skip with a learned number .* variant='admin'"):
        init.admin(transformer_lm(**SMALL, variant="post"), TOKENS)
    with pytest.raises(ValueError, match="Block has no skip"):
        init.admin(Block("Fa", 4, F=lambda width: nn.Linear(width, width), a=add(learn="skip")), torch.randn(2, 4))
    with pytest.raises(ValueError, match="dim=-1 is the axis of learned scalars, and none is learned"):
        add(dim=-1)
