"""GPT-2 of Hugging Face."""

import torch
from torch import Tensor

from resnorm.models.transformer import TransformerLM
from resnorm.models.weights.family import Family, count

# Their matrices are stored the other way round.
TABLE = {
    "transformer.wte": "token",
    "transformer.wpe": "position",
    "transformer.h.{layer}.ln_1": "stack.blocks.{index}.n1",
    "transformer.h.{layer}.attn.c_attn": "stack.blocks.{index}.A1.query_key_value.T",
    "transformer.h.{layer}.attn.c_proj": "stack.blocks.{index}.A1.output.T",
    "transformer.h.{layer}.ln_2": "stack.blocks.{index}.n2",
    "transformer.h.{layer}.mlp.c_fc": "stack.blocks.{index}.M1.hidden.T",
    "transformer.h.{layer}.mlp.c_proj": "stack.blocks.{index}.M1.output.T",
    "transformer.ln_f": "stack.last",
    "lm_head": "head",
}


def tokens(model: TransformerLM) -> tuple[Tensor]:
    """Two random sequences of at most 16 tokens."""
    shape = (2, min(16, model.context))
    return (torch.randint(model.token.num_embeddings, shape, generator=torch.Generator().manual_seed(0)),)


def call(tensors: dict[str, Tensor]) -> str:
    vocabulary, width = tensors["transformer.wte.weight"].shape
    depth = count(tensors, r"transformer\.h\.(\d+)\.")
    return (
        f"transformer_lm(vocabulary={vocabulary}, context={len(tensors['transformer.wpe.weight'])}, depth={depth}, "
        f'width={width}, heads=..., activation="gelu_tanh")'
    )


FAMILIES = (
    Family(
        name="Hugging Face's GPT-2", ours=TransformerLM, signature=("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight"),
        base="transformer.", table=TABLE, call=call, inputs=tokens,
        ignored=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",), tied={"lm_head.weight": "transformer.wte.weight"},
    ),
)  # fmt: skip
