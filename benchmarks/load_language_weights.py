"""Random weights of every language model of transformers, and of ours with every trap: equal logits, or refused.

    python -m benchmarks.load_language_weights            results/benchmarks/load_language_weights.json
    python -m benchmarks.load_language_weights --quick    the families that we load, and the traps: prints and writes nothing

Every causal and every masked language model that transformers has is built small, all of its parameters are moved away from
their start, and its weights are given in six ways to the network that the error message advises. "told" are the network
itself, its state dict with its configuration, and a folder that it saved; "tensors" are the state dict alone, in another
order, and as a .safetensors file. Outcomes are "equal" (to 1e-4 of the largest logit), "refused", and "other": loaded, and
another function. Tensors alone cannot exclude the last; what the log then says stands beside it.
"""

import argparse
import logging
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from benchmarks.measure import write
from resnorm import load_weights
from resnorm.models import bert, transformer_lm
from resnorm.models.weights import FAMILIES
from resnorm.models.weights.source import read

TOLERANCE = 1e-4
VOCABULARY, CONTEXT, LARGEST = 101, 16, 5_000_000
# Small sizes, under all the names that configurations give them.
SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    d_model=32,
    n_embd=32,
    dim=32,
    intermediate_size=48,
    ffn_dim=48,
    n_inner=48,
    hidden_dim=48,
    num_hidden_layers=2,
    n_layer=2,
    n_layers=2,
    num_layers=2,
    num_attention_heads=4,
    n_head=4,
    n_heads=4,
    num_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=CONTEXT,
    n_positions=CONTEXT,
    n_ctx=CONTEXT,
    type_vocab_size=2,
    embedding_size=32,
    word_embed_proj_dim=32,
    rotary_dim=4,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    num_experts=4,
    num_local_experts=4,
    n_routed_experts=4,
    moe_intermediate_size=16,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    attention_types=[[["global", "local"], 1]],
)
# Settings of the families that we load, which change the function or only its size.
TRAPS: dict[str, list[dict[str, Any]]] = {
    "gpt2": [
        dict(scale_attn_by_inverse_layer_idx=True),
        dict(scale_attn_weights=False),
        dict(reorder_and_upcast_attn=True),
        dict(layer_norm_epsilon=1e-3),
        dict(n_head=2),
        dict(n_inner=None),
        dict(tie_word_embeddings=False),
        *(dict(activation_function=name) for name in ("relu", "gelu", "silu", "tanh", "gelu_pytorch_tanh")),
    ],
    "bert": [
        dict(layer_norm_eps=1e-3),
        dict(is_decoder=True),
        dict(position_embedding_type="relative_key"),
        dict(type_vocab_size=3),
        dict(num_attention_heads=2),
        dict(tie_word_embeddings=False),
        *(dict(hidden_act=name) for name in ("relu", "gelu_new", "silu", "quick_gelu")),
    ],
    "llama": [
        dict(rms_norm_eps=1e-3),
        dict(attention_bias=True),
        dict(mlp_bias=True),
        dict(attention_bias=True, mlp_bias=True),
        dict(head_dim=6),
        dict(head_dim=None),
        dict(tie_word_embeddings=True),
        dict(hidden_act="gelu"),
        dict(hidden_act="relu"),
        dict(partial_rotary_factor=0.5),
        dict(num_key_value_heads=1),
        dict(num_key_value_heads=4),
        dict(pretraining_tp=2),
        dict(num_attention_heads=8),
        *(
            dict(rope_parameters=dict(rope_theta=1e4) | rope)
            for rope in (
                dict(rope_type="default", rope_theta=500.0),
                dict(rope_type="linear", factor=2.0),
                dict(rope_type="dynamic", factor=2.0),
                dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=8),
                dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8),
            )
        ),
    ],
    "olmo2": [dict(rms_norm_eps=1e-3), dict(attention_bias=True), dict(num_key_value_heads=4)],
    "gpt_neox": [
        dict(use_parallel_residual=False),
        dict(attention_bias=False),
        dict(hidden_act="relu"),
        dict(hidden_act="silu"),
        *(
            dict(rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=part) | rope)
            for part, rope in ((0.25, {}), (0.5, {}), (1.0, {}), (0.25, dict(rope_type="linear", factor=2.0)))
        ),
    ],
    "mistral": [dict(sliding_window=5), dict(sliding_window=16), dict(head_dim=None)],
    "qwen2": [
        dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
        dict(tie_word_embeddings=True),
        dict(use_sliding_window=True, sliding_window=5, max_window_layers=2),
        dict(use_sliding_window=False, sliding_window=5),
    ],
    "qwen3": [dict(attention_bias=True), dict(head_dim=6), dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)],
}


def networks(quick: bool) -> Iterator[tuple[str, dict[str, Any], Callable[[], nn.Module]]]:
    """The `model_type`, the settings and the network of theirs, small."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    names = [*MODEL_FOR_MASKED_LM_MAPPING_NAMES.items(), *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()]
    for kind, name in sorted(set(names)):
        loaded = kind in TRAPS and name not in ("BertLMHeadModel",)
        for settings in [{}, *(TRAPS[kind] if loaded else [])]:
            if loaded or not quick:

                def build(kind=kind, name=name, settings=settings):
                    made = transformers.CONFIG_MAPPING[kind]
                    known = set(made().to_dict())
                    config = made(**{key: value for key, value in SIZES.items() if key in known} | settings)
                    with torch.device("meta"):
                        size = sum(one.numel() for one in getattr(transformers, name)(config).parameters())
                    if size > LARGEST:
                        raise ValueError(f"{size:,} parameters at small sizes")
                    return getattr(transformers, name)(config)

                yield f"{kind} ({name})", settings, build


@torch.no_grad()
def shaken(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network.eval()


def outcomes(network: nn.Module) -> dict[str, Any]:
    """What became of the weights, each way that they are given."""
    tokens = torch.randint(3, VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
    state, config = network.state_dict(), network.config
    source = read(state, config)
    known = ((family, family.recognise(source)) for family in FAMILIES)
    call = next((family.call_for(named) for family, named in known if named), "transformer_lm(vocabulary=101)")
    build = dict(transformer_lm=transformer_lm, bert=bert)
    try:
        eval(call, build)
    except (ValueError, TypeError, SyntaxError):  # no network of ours: "..." stands for what it cannot be
        call = "bert(vocabulary=101, depth=1, width=32, heads=4)" if call.startswith("bert") else "transformer_lm(vocabulary=101)"
    names = list(state)
    random.Random(0).shuffle(names)
    row: dict[str, Any] = dict(call=call, outcome={})
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("resnorm")
    log.addHandler(handler)
    with TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        ways = (
            ("told", network, None),
            ("told", state, config),
            ("told", Path(folder), None),
            ("tensors", state, None),
            ("tensors", {name: state[name] for name in names}, None),
            ("tensors", Path(folder) / "model.safetensors", None),
        )
        for way, weights, given in ways:
            ours = eval(call, build).eval()
            said.clear()
            try:
                load_weights(ours, weights, config=given)
            except ValueError as error:
                row["outcome"].setdefault(way, set()).add("refused")
                row.setdefault("reason", str(error).split("; these are")[0].split(": the two")[0][:150])
                continue
            with torch.no_grad():
                mine, its = ours(tokens), network(tokens).logits
            difference = ((mine - its).abs().max() / its.abs().max()).item()
            row["outcome"].setdefault(way, set()).add("equal" if difference <= TOLERANCE else "other")
            row["difference"] = max(difference, row.get("difference", 0.0))
            if said and difference > TOLERANCE:
                row["said"] = said[-1]
    log.removeHandler(handler)
    return row | dict(outcome={way: " and ".join(sorted(found)) for way, found in row["outcome"].items()})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the families that we load, and their traps; writes nothing")
    parser.add_argument("--folder", type=Path, help="where the JSON goes; results/benchmarks")
    chosen = parser.parse_args(arguments)
    import transformers

    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows = []
    for name, settings, build in networks(chosen.quick):
        torch.manual_seed(0)
        row: dict[str, Any] = dict(network=name, settings={key: str(value) for key, value in settings.items()})
        try:
            network = shaken(build())
        except Exception as error:
            row["not_built"] = f"{type(error).__name__}: {error}".split("\n")[0][:150]
        else:
            try:
                row |= outcomes(network)
            except Exception as error:
                row["not_run"] = f"{type(error).__name__}: {error}".split("\n")[0][:150]
        rows.append(row)
        what = row.get("outcome") or row.get("not_built") or row.get("not_run")
        print(name, row["settings"] or "", what, row.get("reason", "")[:200], flush=True)
    counts = {way: dict(Counter(row["outcome"][way] for row in rows if "outcome" in row)) for way in ("told", "tensors")}
    print(counts)
    if not chosen.quick:
        settings = dict(transformers=transformers.__version__, tolerance=TOLERANCE, largest=LARGEST, counts=counts)
        print(write("load_language_weights", settings, rows, chosen.folder))


if __name__ == "__main__":
    main()
