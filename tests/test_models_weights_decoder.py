"""Decoders of Hugging Face in `transformer_lm`: the same logits, or a refusal that names the reason; nothing between."""

import random
import re

import pytest
import torch

from resnorm import load_weights, transformer_lm
from resnorm.models import bert, generate

transformers = pytest.importorskip("transformers")

SIZES = dict(
    vocab_size=101,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=16,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
NEOX = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
GPT2 = dict(vocab_size=101, n_positions=16, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
FAMILIES = {
    "GPT2": dict(GPT2),
    "GPT2 of another size": dict(GPT2, n_inner=40, activation_function="relu", layer_norm_epsilon=1e-3),
    "GPT2 with a head of its own": dict(GPT2, tie_word_embeddings=False, activation_function="gelu"),
    "Llama": dict(SIZES),
    "Llama of another size": dict(
        SIZES, head_dim=6, rope_parameters=dict(rope_type="default", rope_theta=500.0), rms_norm_eps=1e-3, tie_word_embeddings=True
    ),
    "Llama with biases": dict(SIZES, attention_bias=True, mlp_bias=True, num_key_value_heads=1),
    "Llama with biases in its attention": dict(SIZES, attention_bias=True),
    "Mistral": dict(SIZES, sliding_window=None),
    "Mistral with a window": dict(SIZES, sliding_window=16),
    "Qwen2": dict(SIZES, tie_word_embeddings=True),
    "Qwen3": dict(SIZES, head_dim=6),
    "Olmo2": dict(SIZES),
    "GPTNeoX": dict(NEOX),
    "GPTNeoX in a row": dict(
        NEOX,
        use_parallel_residual=False,
        hidden_act="relu",
        layer_norm_eps=1e-3,
        attention_bias=False,
        rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5),
    ),
    "GPTNeoX, turned all round": dict(NEOX, rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=1.0)),
}
TOKENS = torch.randint(101, (2, 16), generator=torch.Generator().manual_seed(1))


def theirs(family, **options):
    """A network of theirs with every parameter away from its start, so that no 1 and no 0 hides a wrong place."""
    torch.manual_seed(0)
    name = family.replace(",", "").split()[0]
    config = getattr(transformers, f"{name}Config")(**FAMILIES.get(family, SIZES) | options)
    model = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def suggested(weights, **options):
    """Our network by the call that the error names."""
    with pytest.raises(ValueError, match=r"the nearest network here is transformer_lm\(") as refusal:
        load_weights(transformer_lm(vocabulary=3, depth=1, width=8), weights, **options)
    call = re.search(r"transformer_lm\(.*\)", str(refusal.value))[0]
    torch.manual_seed(1)
    return eval(call, dict(transformer_lm=transformer_lm)).eval(), call


def same(ours, other, tokens=TOKENS):
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), other(tokens).logits.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_call_of_the_error_loads_the_weights_and_gives_the_same_logits(family, tmp_path):
    other = theirs(family)
    ours, call = suggested(other.state_dict(), config=other.config)
    assert ("tie=True" in call) == other.config.tie_word_embeddings
    same(load_weights(ours, other.state_dict(), config=other.config), other)

    names = list(other.state_dict())
    random.Random(0).shuffle(names)
    shuffled = {name: other.state_dict()[name] for name in names}
    ours, _ = suggested(other.state_dict(), config=other.config)
    same(load_weights(ours, shuffled), other)

    other.save_pretrained(tmp_path)  # a .safetensors file, without a tied head, and its config.json
    ours, _ = suggested(other.state_dict(), config=other.config)
    same(load_weights(ours, tmp_path), other)
    ours, _ = suggested(other.state_dict(), config=other.config)
    same(load_weights(ours, tmp_path / "model.safetensors", config=tmp_path / "config.json"), other)
    same(load_weights(ours, other), other)  # compares the outputs of both by itself


# What changes their function and no tensor: with the configuration a refusal that names the field.
TRAPS = [
    ("GPT2", dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx=True in the configuration"),
    ("GPT2", dict(scale_attn_weights=False), "scale_attn_weights=False in the configuration, and True in this model"),
    ("GPT2", dict(layer_norm_epsilon=1e-3), "layer_norm_epsilon=0.001 in the configuration, and 1e-05 in this model"),
    ("GPT2", dict(activation_function="relu"), "activation_function='relu' in the configuration, and 'gelu_new' in this model"),
    ("GPT2", dict(activation_function="silu"), "activation_function='silu'"),
    ("GPT2", dict(n_head=2), "n_head=2 in the configuration, and 4 in this model"),
    ("GPT2", dict(logit_scale=2.0), "logit_scale=2.0 in the configuration, a field that is unknown here"),
    ("Llama", dict(rms_norm_eps=1e-3), "rms_norm_eps=0.001 in the configuration, and 1e-06 in this model"),
    ("Llama", dict(hidden_act="gelu"), "hidden_act='gelu' in the configuration, and 'silu' in this model"),
    ("Llama", dict(mlp_bias=True), r"down_proj.bias', of shape \(32,\), has no place in this model"),
    ("Llama", dict(num_attention_heads=8, num_key_value_heads=4), "num_attention_heads=8 in the configuration, and 4"),
    ("Llama", dict(rope_parameters=dict(rope_type="default", rope_theta=500.0)), "rope_theta=500.0 in the configuration, .* 10000"),
    ("Llama", dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=1e4)), "rope_type='linear' in the config"),
    ("Llama", dict(rope_scaling=dict(rope_type="dynamic", factor=2.0)), "rope_type='dynamic' in the configuration"),
    ("Llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor=0.5 in the .* turns 8 of the 8 features"),
    ("Mistral", dict(sliding_window=5), "sliding_window=5 in the configuration, .* take context=5"),
    (
        "Qwen2",
        dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, layer_types=["full_attention", "sliding_attention"]),
        "sliding_window=5 in the configuration",
    ),
    ("Olmo2", dict(rms_norm_eps=1e-3), "rms_norm_eps=0.001 in the configuration, and 1e-05"),
    ("Olmo3", dict(sliding_window=5, rms_norm_eps=1e-5), "model_type='olmo3' in the configuration, and OLMo 3 attends to a window"),
    ("GPTNeoX", dict(use_parallel_residual=False), "use_parallel_residual=False in the configuration, and True in this model"),
    (
        "GPTNeoX",
        dict(rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)),
        "partial_rotary_factor=0.5 in the configuration, and this model turns 2 of the 8 features",
    ),
    ("Gemma", dict(head_dim=8), "model_type='gemma' in the configuration, and Gemma's gains are stored as an offset from 1"),
    ("Granite", dict(), "model_type='granite' in the configuration, and Granite multiplies"),
    ("SmolLM3", dict(no_rope_layers=[1, 0]), "model_type='smollm3' in the configuration, and SmolLM3 has no positions"),
    ("Helium", dict(head_dim=8), "model_type='helium' in the configuration, and Helium turns other pairs"),
    ("Ernie4_5", dict(head_dim=8), "model_type='ernie4_5' in the configuration"),
]


def ours_for(family, **options):
    """Our network in the sizes above, whose other settings are those of the plain family."""
    small = dict(vocabulary=101, context=16, depth=2, width=32, heads=4)
    if family.startswith("GPT2"):
        return transformer_lm(**small | dict(activation="gelu_tanh") | options)
    if family.startswith("GPTNeoX"):
        small |= dict(variant="parallel_two_norms", positions="rotary", rotary_width=2, expansion=48 / 32)
        return transformer_lm(**small | options)
    if family.startswith("Olmo"):
        options = dict(variant="olmo2", norm="rms(eps=1e-5)") | options
    small |= dict(norm="rms", activation="swiglu", positions="rotary", expansion=48 / 32, key_value_heads=2, bias=False)
    return transformer_lm(**small | dict(bias="qkv" if family == "Qwen2" else False) | options)


@pytest.mark.parametrize(("family", "options", "message"), TRAPS)
def test_what_the_configuration_says_and_no_tensor_is_refused(family, options, message):
    other = theirs(family, **options)
    ours = ours_for(family)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(ours, other.state_dict(), config=other.config)
    with pytest.raises(ValueError, match=message):
        load_weights(ours, other.state_dict(), config=other.config.to_dict())
    with pytest.raises(ValueError):
        load_weights(ours, other)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("GPT2", dict(reorder_and_upcast_attn=True)),
        ("GPT2", dict(activation_function="gelu_pytorch_tanh")),
        ("GPT2", dict(attn_pdrop=0.3, resid_pdrop=0.0)),
        ("Llama", dict(pretraining_tp=2, is_llama_config=True, rope_interleaved=False)),
        ("Llama", dict(rope_theta=10000.0, rope_scaling=None)),
        ("Mistral", dict(sliding_window=16)),
        ("Qwen2", dict(sliding_window=5)),
    ],
)
def test_what_the_configuration_says_without_changing_the_function_is_taken(family, options):
    other = theirs(family, **options)
    same(load_weights(ours_for(family), other.state_dict(), config=other.config).eval(), other)


@pytest.mark.parametrize("family", ["GPT2 with a head of its own", "Llama"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(variant="res_post"), "the word 'Ana Mna', and the weights 'nAa nMa'"),
        (dict(variant="depth_scaled"), "this model adds by '.*γ.*, and the weights by"),
        (dict(variant="layernorm_scaling"), "the word 'nsAa nsMa', and the weights 'nAa nMa'"),
        (dict(variant="post"), r"(ln_f|model\.norm)\.(weight|bias)', of shape \(32,\), has no place in this model"),
        (dict(variant="hyper_connections"), "no tensor of the weights fills"),
        (dict(depth=3), "no tensor of the weights fills 'stack.blocks.2"),
        (dict(depth=1), r"(h|layers)\.1\..* has no place in this model"),
        (dict(tie=True), "'lm_head.weight' is another matrix than '.*', and tie=True"),
        (dict(key_value_heads=1), r"has shape .*query_key_value.* of this model"),
    ],
)
def test_another_network_of_ours_is_refused_from_the_tensors(family, options, message):
    other = theirs(family)
    with pytest.raises(ValueError, match=message):
        load_weights(ours_for(family, **options), other.state_dict())


def test_a_norm_with_the_tensors_of_another_is_refused():
    with pytest.raises(ValueError, match="'stack.blocks.0.0_n' of this model is BatchNorm, and in the weights LayerNorm"):
        load_weights(ours_for("GPT2", norm="batch(dim=-1,track_running_stats=False)"), theirs("GPT2").state_dict())


def test_norms_without_tensors_inside_a_branch_are_no_part_of_their_function():
    other = theirs("Llama")
    ours = ours_for("Llama")
    for block in ours.stack.blocks:
        block.get_submodule("1_A").inner_norm = torch.nn.RMSNorm(32, elementwise_affine=False)
    with pytest.raises(ValueError, match="this model has inner_norm in its SelfAttention"):
        load_weights(ours, other.state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_what_training_leaves_around_the_names_is_taken_off(family, prefix):
    other = theirs(family)
    state = {f"{prefix}{name}": value for name, value in other.state_dict().items()}
    for wrapped in (state, {"state_dict": state, "epoch": 3}, {"model": state}):
        same(load_weights(ours_for(family), wrapped).eval(), other)


def test_gpt2s_own_file_has_no_prefix_no_head_and_masks():
    other = theirs("GPT2")
    state = {name.removeprefix("transformer."): value for name, value in other.state_dict().items()}
    del state["lm_head.weight"]
    for layer in range(2):
        state[f"h.{layer}.attn.bias"] = torch.ones(16, 16, dtype=torch.uint8).tril()[None, None]
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    for tie in (False, True):
        same(load_weights(ours_for("GPT2", tie=tie), state, config=other.config).eval(), other)
    with pytest.raises(ValueError, match="no tensor of the weights fills 'head.weight' .* head=\"skip\""):
        load_weights(ours_for("GPT2"), state, config=other.config.to_dict() | dict(tie_word_embeddings=False))


def test_a_llama_without_its_head_loads_only_where_it_is_known_to_be_tied_or_skipped():
    other = theirs("Llama")
    state = other.model.state_dict()
    for options in (dict(), dict(config=other.config)):
        with pytest.raises(ValueError, match="no tensor of the weights fills 'head.weight'"):
            load_weights(ours_for("Llama"), state, **options)
        ours = ours_for("Llama").eval()
        head = ours.head.weight.clone()
        load_weights(ours, state, head="skip", **options)
        assert torch.equal(ours.head.weight, head)
        with torch.no_grad():
            ours.head.weight.copy_(other.lm_head.weight)
        same(ours, other)


@pytest.mark.parametrize("name", ["GPT2Model", "GPT2ForSequenceClassification", "LlamaModel", "LlamaForSequenceClassification"])
def test_a_network_with_another_head_or_none_loads_below_it(name):
    family = re.split("For|Model", name)[0]
    config = dict(FAMILIES[family], pad_token_id=0, num_labels=5)
    for options in (dict(), dict(activation_function="relu") if family == "GPT2" else dict(hidden_act="gelu")):
        torch.manual_seed(0)
        other = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**config | options)).eval()
        for weights in (other, other.state_dict()):
            ours = ours_for(family).eval()
            if options:
                with pytest.raises(ValueError):
                    load_weights(ours, weights, head="skip", config=other.config)
                continue
            load_weights(ours, weights, head="skip")
            read = []
            ours.head.register_forward_pre_hook(lambda module, given, read=read: read.append(given[0]))
            with torch.no_grad():
                ours(TOKENS)
                torch.testing.assert_close(read[0], other.base_model(TOKENS).last_hidden_state, rtol=1e-5, atol=1e-5)
    if name == "GPT2Model":  # whose head is its embedding
        ours = load_weights(ours_for("GPT2"), theirs("GPT2").transformer)
        assert torch.equal(ours.head.weight, theirs("GPT2").lm_head.weight)


def test_old_llama_files_have_frequencies_that_are_checked():
    other = theirs("Llama")
    names = [f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(2)]
    for theta, width, reason in ((1e4, 8, None), (500.0, 8, "other frequencies"), (1e4, 4, "other frequencies")):
        frequencies = theta ** (-torch.arange(0, width, 2) / width)
        state = other.state_dict() | dict.fromkeys(names, frequencies)
        if reason is None:
            same(load_weights(ours_for("Llama"), state).eval(), other)
        else:
            with pytest.raises(ValueError, match=reason):
                load_weights(ours_for("Llama"), state)


def test_gains_that_look_like_offsets_are_refused_without_a_configuration():
    with pytest.raises(ValueError, match="stored as an offset from 1 .Gemma."):
        load_weights(ours_for("Llama"), theirs("Gemma", head_dim=8, hidden_act="silu").state_dict())


def test_half_precision_files_load_into_a_model_of_any_type():
    for family in ("GPT2", "Llama"):
        other = theirs(family)
        state = {name: value.half() for name, value in other.state_dict().items()}
        other.load_state_dict(state)
        same(load_weights(ours_for(family), state).eval(), other)
        half = load_weights(ours_for(family).bfloat16(), state).eval()
        assert half.token.weight.dtype == torch.bfloat16


def test_loaded_weights_generate_the_text_that_theirs_do():
    for family in ("GPT2", "Llama", "Qwen3"):
        other = theirs(family, **(dict(head_dim=8) if family == "Qwen3" else {}))
        ours = load_weights(suggested(other.state_dict(), config=other.config)[0], other)
        mine = generate(ours, TOKENS[:, :4], 8, temperature=0)
        its = other.generate(TOKENS[:, :4], max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert torch.equal(mine, its)


NAMED = {
    "GPTNeo": "GPT-Neo does not scale its scores",
    "GPTJ": "GPT-J's head has a bias",
    "OPT": "as OPT, which counts them from 2",
    "Phi3": "one matrix, as in Phi-3",
}
UNNAMED = "has no place in this model|no tensor of the weights fills|has shape|known here|and the weights 'Ana Mna'"


@pytest.mark.parametrize("family", [*NAMED, "Phi", "Gemma2", "Olmo", "Exaone4", "Cohere", "StableLm", "GPTBigCode"])
def test_other_decoders_are_refused_by_their_names_and_shapes(family):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")()
    sizes = SIZES | dict(
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=16,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        head_dim=8,
        rotary_dim=4,
        ffn_dim=48,
        word_embed_proj_dim=32,
    )
    known = config.to_dict()
    options = {name: value for name, value in sizes.items() if name in known}
    other = getattr(transformers, f"{family}ForCausalLM")(type(config)(**options))
    for ours in (ours_for("GPT2"), ours_for("Llama"), ours_for("Llama", variant="qk_norm_per_head"), ours_for("Qwen2")):
        with pytest.raises(ValueError, match=NAMED.get(family, UNNAMED)):
            load_weights(ours, other.state_dict())


def test_weights_of_another_kind_name_the_call():
    with pytest.raises(ValueError, match=r"this model is Bert; build transformer_lm\(vocabulary=101, context=16, depth=2"):
        load_weights(bert(vocabulary=3, depth=1, width=8, heads=2), theirs("GPT2").state_dict())
