"""Branches side by side, and the skip after the norm, against layers of Hugging Face and timm: forward and every gradient.

In 64 bits. What is tested is the block: its norms and its MLP are ours. Of Hugging Face the attention itself is taken as
our branch A, a copy with the same weights, since each of these models turns its queries in a way of its own.
"""

import copy
from functools import partial

import pytest
import timm.models.vision_transformer as timm_blocks
import torch
from torch import nn

from resnorm.branches import attention, mlp
from resnorm.letters import add, layer_scale
from resnorm.words import Block

WIDTH, HEADS, TOKENS = 16, 4, 6
EXACT = 1e-10


class Theirs(nn.Module):
    """A module of Hugging Face as a branch: tokens in, tokens out; `inputs` are the other things that it is called with."""

    def __init__(self, width, module, inputs):
        super().__init__()
        self.module, self.inputs = copy.deepcopy(module), inputs

    def forward(self, x):
        y = self.module(x, **self.inputs)
        return y if isinstance(y, torch.Tensor) else y[0]


def equal(mine, its):
    return [(mine.weight, its.weight)] + ([] if its.bias is None else [(mine.bias, its.bias)])


def perturbed(module):
    """Gains, biases and scales away from their start, where one that is lost or swapped would not show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return module.double()


def check(block, pairs, theirs, tolerance=EXACT):
    """Give the block the reference's weights; compare outputs and the gradients of the input and of every parameter.

    `pairs`: parameters of ours and of the reference; a list of them where one side keeps in one tensor what the other has in
    several.
    """
    block.double()
    listed = [[side if isinstance(side, list) else [side] for side in pair] for pair in pairs]
    assert {id(one) for mine, _ in listed for one in mine} == {id(one) for one in block.parameters()}, "not all are compared"
    with torch.no_grad():
        for mine, its in listed:
            for one, value in zip(mine, torch.cat(its).split([len(one) for one in mine]), strict=True):
                one.copy_(value)
    x = torch.randn(3, TOKENS, WIDTH, dtype=torch.float64)
    results = []
    for side, run in enumerate((block, theirs)):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        torch.manual_seed(2)
        y.backward(torch.randn_like(y))
        results.append([y.detach(), leaf.grad, *(torch.cat([one.grad for one in pair[side]]) for pair in listed)])
    for mine, its in zip(*results, strict=True):
        error = ((mine - its).norm() / its.norm()).item()
        assert error < tolerance, f"relative error {error:.1e}"


# ---------------------------------------------------------------------------------------------------- Hugging Face


def transformers_module(name):
    return pytest.importorskip(f"transformers.models.{name}.modeling_{name}", reason=f"transformers has no {name}")


def config_of(name, **options):
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, name)(**options, attn_implementation="eager")


def causal():
    """What Hugging Face adds to the scores: 0 where a token may attend, and a large negative number where it may not."""
    later = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
    return torch.zeros(1, 1, TOKENS, TOKENS, dtype=torch.float64).masked_fill(later, -1e9)


def positions():
    return torch.arange(TOKENS)[None]


def attention_pairs(block, attention, letter="A"):
    (mine,) = block.parts(letter)
    return list(zip(mine.parameters(), attention.parameters(), strict=True))


def norm_pairs(block, *norms):
    return [pair for mine, its in zip(block.parts("n"), norms, strict=True) for pair in equal(mine, its)]


def mlp_pairs(block, hidden, output):
    (mine,) = block.parts("M")
    return equal(mine.hidden, hidden) + equal(mine.output, output)


@pytest.mark.parametrize("rotary", [2, 4])
def test_gpt_j(rotary):
    module = transformers_module("gptj")
    config = config_of("GPTJConfig", n_embd=WIDTH, n_head=HEADS, rotary_dim=rotary, n_positions=8, attn_pdrop=0, resid_pdrop=0)
    theirs = perturbed(module.GPTJBlock(config, layer_idx=0)).eval()
    inputs = dict(attention_mask=causal(), position_ids=positions())
    ours = Block(
        "n[A,M]a",
        WIDTH,
        n=f"layer(eps={config.layer_norm_epsilon})",
        A=partial(Theirs, module=theirs.attn, inputs=inputs),
        M=mlp(4, "gelu_tanh"),
    ).eval()
    pairs = norm_pairs(ours, theirs.ln_1) + attention_pairs(ours, theirs.attn)
    pairs += mlp_pairs(ours, theirs.mlp.fc_in, theirs.mlp.fc_out)
    check(ours, pairs, lambda x: theirs(x, **inputs)[0])


def test_gpt_neox():
    module = transformers_module("gpt_neox")
    config = config_of(
        "GPTNeoXConfig",
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        intermediate_size=3 * WIDTH,
        use_parallel_residual=True,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        max_position_embeddings=8,
    )
    theirs = perturbed(module.GPTNeoXLayer(config, layer_idx=0)).eval()
    turns = module.GPTNeoXRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float64), positions())
    inputs = dict(attention_mask=causal(), position_embeddings=turns)
    ours = Block(
        "[nA,nM]a",
        WIDTH,
        n=f"layer(eps={config.layer_norm_eps})",
        A=partial(Theirs, module=theirs.attention, inputs=inputs),
        M=mlp(3, "gelu"),
    ).eval()
    pairs = norm_pairs(ours, theirs.input_layernorm, theirs.post_attention_layernorm)
    pairs += attention_pairs(ours, theirs.attention)
    pairs += mlp_pairs(ours, theirs.mlp.dense_h_to_4h, theirs.mlp.dense_4h_to_h)
    check(ours, pairs, lambda x: theirs(x, **inputs))


def test_cohere():
    module = transformers_module("cohere")
    config = config_of(
        "CohereConfig",
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        intermediate_size=3 * WIDTH,
        max_position_embeddings=8,
    )
    theirs = perturbed(module.CohereDecoderLayer(config, layer_idx=0)).eval()
    turns = module.CohereRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float64), positions())
    inputs = dict(attention_mask=causal(), position_embeddings=turns)
    ours = Block(
        "n[A,M]a",
        WIDTH,
        n=partial(nn.LayerNorm, eps=config.layer_norm_eps, bias=False),
        A=partial(Theirs, module=theirs.self_attn, inputs=inputs),
        M=mlp(3, "swiglu", bias=False),
    ).eval()
    (norm,), (feed_forward,) = ours.parts("n"), ours.parts("M")
    pairs = [(norm.weight, theirs.input_layernorm.weight), *attention_pairs(ours, theirs.self_attn)]
    pairs.append((feed_forward.hidden.weight, [theirs.mlp.gate_proj.weight, theirs.mlp.up_proj.weight]))
    pairs.append((feed_forward.output.weight, theirs.mlp.down_proj.weight))
    # Their norm computes in 32 bits, whatever comes in.
    check(ours, pairs, lambda x: theirs(x, **inputs), tolerance=1e-6)


@pytest.mark.parametrize(
    ("word", "options"),
    [
        ("n[A,M]a", dict(new_decoder_architecture=False, multi_query=True)),  # Falcon-7b
        ("[nA,nM]a", dict(new_decoder_architecture=True, num_kv_heads=2)),  # Falcon-40b
        ("n[A,M]a", dict(new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1)),  # Falcon-11b
    ],
)
def test_falcon(word, options):
    module = transformers_module("falcon")
    config = config_of(
        "FalconConfig",
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        parallel_attn=True,
        bias=False,
        alibi=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        max_position_embeddings=8,
        **options,
    )
    theirs = perturbed(module.FalconDecoderLayer(config, layer_idx=0)).eval()
    turns = module.FalconRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float64), positions())
    inputs = dict(alibi=None, attention_mask=causal(), position_embeddings=turns)
    ours = Block(
        word,
        WIDTH,
        n=f"layer(eps={config.layer_norm_epsilon})",
        A=partial(Theirs, module=theirs.self_attention, inputs=inputs),
        M=mlp(4, "gelu", bias=False),
    ).eval()
    norms = [theirs.ln_attn, theirs.ln_mlp] if word.startswith("[") else [theirs.input_layernorm]
    pairs = norm_pairs(ours, *norms) + attention_pairs(ours, theirs.self_attention)
    pairs += mlp_pairs(ours, theirs.mlp.dense_h_to_4h, theirs.mlp.dense_4h_to_h)
    check(ours, pairs, lambda x: theirs(x, **inputs)[0])


def test_bloom_with_the_skip_after_the_norm():
    module = transformers_module("bloom")
    config = config_of("BloomConfig", hidden_size=WIDTH, n_head=HEADS, apply_residual_connection_post_layernorm=True)
    theirs = perturbed(module.BloomBlock(config, layer_idx=0)).eval()
    inputs = dict(alibi=torch.randn(3 * HEADS, 1, TOKENS, dtype=torch.float64), attention_mask=causal())
    without = torch.zeros(3, TOKENS, WIDTH, dtype=torch.float64)  # their attention adds the skip itself
    ours = Block(
        "n|Aa n|Ma",
        WIDTH,
        n=f"layer(eps={config.layer_norm_epsilon})",
        A=partial(Theirs, module=theirs.self_attention, inputs=dict(residual=without, **inputs)),
        M=mlp(4, "gelu_tanh"),
    ).eval()
    pairs = norm_pairs(ours, theirs.input_layernorm, theirs.post_attention_layernorm)
    pairs += attention_pairs(ours, theirs.self_attention)
    pairs += mlp_pairs(ours, theirs.mlp.dense_h_to_4h, theirs.mlp.dense_4h_to_h)
    # Their GELU has its constant to 8 digits.
    check(ours, pairs, lambda x: theirs(x, **inputs)[0], tolerance=1e-7)


def test_minimax_scales_the_skip_after_the_norm():
    module = transformers_module("minimax")
    config = config_of(
        "MiniMaxConfig",
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=4,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        layer_types=["full_attention"],
        num_local_experts=2,
        num_experts_per_tok=2,
        experts_implementation="eager",
        full_attn_alpha_factor=3.5,
        full_attn_beta_factor=0.5,
        mlp_alpha_factor=2.5,
        mlp_beta_factor=0.7,
    )
    theirs = module.MiniMaxDecoderLayer(config, layer_idx=0).eval()
    for parameter in theirs.mlp.parameters():  # which are as the memory was
        nn.init.normal_(parameter, std=0.2)
    theirs = perturbed(theirs)
    turns = module.MiniMaxRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float64), positions())
    inputs = dict(attention_mask=causal(), position_embeddings=turns)
    ours = Block(
        "n|Aa n|Ma",
        WIDTH,
        n=f"rms(eps={config.rms_norm_eps})",
        a=[add(skip=3.5, gain=0.5), add(skip=2.5, gain=0.7)],
        A=partial(Theirs, module=theirs.self_attn, inputs=inputs),
        M=partial(Theirs, module=theirs.mlp, inputs={}),
    ).eval()
    pairs = [
        (mine.weight, its.weight)
        for mine, its in zip(ours.parts("n"), (theirs.input_layernorm, theirs.post_attention_layernorm), strict=True)
    ]
    pairs += attention_pairs(ours, theirs.self_attn) + attention_pairs(ours, theirs.mlp, "M")
    # Their norm computes in 32 bits, whatever comes in.
    check(ours, pairs, lambda x: theirs(x, **inputs), tolerance=1e-5)


# ---------------------------------------------------------------------------------------------------- timm


@pytest.mark.parametrize(("word", "scale"), [("n[A,M]a", None), ("n[A,M]sa", 0.5)])
def test_parallel_scaling_block(word, scale):
    theirs = perturbed(timm_blocks.ParallelScalingBlock(WIDTH, HEADS, qkv_bias=True, init_values=scale))
    scales = {} if scale is None else dict(s=layer_scale(scale))
    ours = Block(word, WIDTH, n="layer(eps=1e-6)", A=attention(HEADS), M=mlp(4, "gelu"), **scales)
    (self_attention,), (feed_forward,) = ours.parts("A"), ours.parts("M")
    pairs = norm_pairs(ours, theirs.in_norm) + equal(self_attention.output, theirs.attn_out_proj)
    pairs += equal(feed_forward.output, theirs.mlp_out_proj)
    for kind in ("weight", "bias"):
        mine = [getattr(one, kind) for one in (feed_forward.hidden, self_attention.query_key_value)]
        pairs.append((mine, getattr(theirs.in_proj, kind)))
    if scale is not None:
        pairs.append((ours.parts("s")[0].gain, theirs.ls.gamma))
    check(ours, pairs, theirs)


@pytest.mark.parametrize(("word", "scale"), [("[nA,nA]a [nM,nM]a", None), ("[nAs,nAs]a [nMs,nMs]a", 0.5)])
def test_parallel_things_block(word, scale):
    theirs = perturbed(timm_blocks.ParallelThingsBlock(WIDTH, HEADS, num_parallel=2, qkv_bias=True, init_values=scale))
    scales = {} if scale is None else dict(s=layer_scale(scale))
    ours = Block(word, WIDTH, n="layer(eps=1e-6)", A=attention(HEADS), M=mlp(4, "gelu"), **scales)
    branches = [*theirs.attns, *theirs.ffns]
    pairs = norm_pairs(ours, *(branch.norm for branch in branches))
    for mine, its in zip(ours.parts("A"), theirs.attns, strict=True):
        pairs += equal(mine.query_key_value, its.attn.qkv) + equal(mine.output, its.attn.proj)
    for mine, its in zip(ours.parts("M"), theirs.ffns, strict=True):
        pairs += equal(mine.hidden, its.mlp.fc1) + equal(mine.output, its.mlp.fc2)
    if scale is not None:
        pairs += [(mine.gain, branch.ls.gamma) for mine, branch in zip(ours.parts("s"), branches, strict=True)]
    check(ours, pairs, theirs)
