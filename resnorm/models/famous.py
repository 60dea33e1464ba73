"""Layers of well-known Transformers in the library transformers: how a tiny model is built, and what its parts are called."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resnorm.extras import needed_for

# Every tiny model has two layers of width 32 with four heads and an MLP of four times the width.
VOCABULARY, CONTEXT, WIDTH, HEADS, DEPTH = 50, 16, 32, 4, 2
_WORDS = dict(vocab_size=VOCABULARY, use_cache=False, pad_token_id=0, bos_token_id=1, eos_token_id=2)
_SIZES = dict(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS)
_PLAIN = _WORDS | _SIZES | dict(max_position_embeddings=CONTEXT)
_LLAMA = _PLAIN | dict(num_key_value_heads=HEADS, head_dim=WIDTH // HEADS)
_GPT = _WORDS | dict(n_embd=WIDTH, n_layer=DEPTH, n_head=HEADS, n_positions=CONTEXT)
_T5 = _WORDS | dict(d_model=WIDTH, d_kv=WIDTH // HEADS, d_ff=4 * WIDTH, num_layers=DEPTH, num_heads=HEADS)
_MARIAN = _WORDS | dict(
    d_model=WIDTH,
    decoder_start_token_id=0,
    encoder_layers=DEPTH,
    decoder_layers=DEPTH,
    encoder_attention_heads=HEADS,
    decoder_attention_heads=HEADS,
    encoder_ffn_dim=4 * WIDTH,
    decoder_ffn_dim=4 * WIDTH,
)
_IMAGES = _SIZES | dict(image_size=16, patch_size=4)


@dataclass(frozen=True)
class Layer:
    """Hold where one layer of a model of transformers is: ``library``, the beginning of its classes' names; ``settings`` of
    a tiny configuration; ``path`` of the layer; and the names of its ``parts`` by the letters of a word, in their order.
    """

    library: str
    settings: Mapping[str, Any]
    path: str
    parts: Mapping[str, str]

    def build(self, seed: int = 0, head: str = "Model") -> nn.Module:
        """Build the tiny model with random weights, all of them shaken: no gain of 1 and no bias of 0 hides its place.

        ``head``: the end of the class' name, such as "ForMaskedLM". In eval mode. Raises MissingExtra without transformers.
        """
        with needed_for("models of other libraries", "test"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its progress bars ask for widgets
            import transformers
        transformers.logging.set_verbosity_error()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            configuration = getattr(transformers, f"{self.library}Config")(**self.settings)
            model = getattr(transformers, f"{self.library}{head}")(configuration).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
        return model

    def inputs(self) -> dict[str, Tensor]:
        """Two examples as this model takes them by name: an image, or token numbers, for both sides of an encoder-decoder."""
        generator = torch.Generator().manual_seed(0)
        if "image_size" in self.settings:
            return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
        tokens = torch.randint(3, VOCABULARY, (2, 8), generator=generator)
        return {"input_ids": tokens} | ({"decoder_input_ids": tokens} if self.library in ("Marian", "T5") else {})


def _parts(attention: str, mlp: str, norms: str, cross: str | None = None) -> dict[str, str]:
    return {"A": attention} | ({"X": cross} if cross else {}) | {"M": mlp, "n": norms}


_ENDS = "input_layernorm post_attention_layernorm"
_MIDDLE = "post_attention_layernorm post_feedforward_layernorm"
_FC, _MARIAN_NORMS = "fc1 activation_fn fc2", "self_attn_layer_norm{} final_layer_norm"
_BERT_ATTENTION, _BERT_MLP = "attention.self attention.output.dense", "intermediate output.dense"
_T5_NORMS = "layer.0.layer_norm layer.1.layer_norm layer.2.layer_norm"
FAMOUS = {
    "Transformer, encoder": Layer("Marian", _MARIAN, "encoder.layers.1", _parts("self_attn", _FC, _MARIAN_NORMS.format(""))),
    "Transformer, decoder": Layer(
        "Marian",
        _MARIAN,
        "decoder.layers.1",
        _parts("self_attn", _FC, _MARIAN_NORMS.format(" encoder_attn_layer_norm"), "encoder_attn"),
    ),
    "GPT": Layer("OpenAIGPT", _GPT, "h.1", _parts("attn", "mlp", "ln_1 ln_2")),
    "BERT": Layer(
        "Bert", _PLAIN, "encoder.layer.1", _parts(_BERT_ATTENTION, _BERT_MLP, "attention.output.LayerNorm output.LayerNorm")
    ),
    "GPT-2": Layer("GPT2", _GPT, "h.1", _parts("attn", "mlp", "ln_1 ln_2")),
    "ViT": Layer("ViT", _IMAGES, "layers.1", _parts("attention", "mlp", "layernorm_before layernorm_after")),
    "T5, encoder": Layer(
        "T5",
        _T5,
        "encoder.block.1",
        _parts("layer.0.SelfAttention", "layer.1.DenseReluDense", _T5_NORMS.removesuffix(" layer.2.layer_norm")),
    ),
    "T5, decoder": Layer(
        "T5",
        _T5,
        "decoder.block.1",
        _parts("layer.0.SelfAttention", "layer.2.DenseReluDense", _T5_NORMS, "layer.1.EncDecAttention"),
    ),
    "ModernBERT": Layer(
        "ModernBert", _PLAIN | dict(cls_token_id=1, sep_token_id=2), "layers.1", _parts("attn", "mlp", "attn_norm mlp_norm")
    ),
    "LLaMA": Layer("Llama", _LLAMA, "layers.1", _parts("self_attn", "mlp", _ENDS)),
    "Pythia": Layer("GPTNeoX", _PLAIN, "layers.1", _parts("attention", "mlp", _ENDS)),
    "OLMo 2": Layer("Olmo2", _LLAMA, "layers.1", _parts("self_attn", "mlp", _MIDDLE)),
    "Gemma 2": Layer(
        "Gemma2", _LLAMA, "layers.1", _parts("self_attn", "mlp", f"{_ENDS} pre_feedforward_layernorm post_feedforward_layernorm")
    ),
}
