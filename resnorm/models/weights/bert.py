"""BERT of Hugging Face, with the head of its masked language model."""

import torch
from torch import Tensor

from resnorm.models.bert import Bert
from resnorm.models.weights.family import Family, count

TABLE = {
    "bert.embeddings.word_embeddings": "embedding.token",
    "bert.embeddings.position_embeddings": "embedding.position",
    "bert.embeddings.token_type_embeddings": "embedding.segment",
    "bert.embeddings.LayerNorm": "embedding.norm",
    "bert.encoder.layer.{layer}.attention.self.query": "stack.blocks.{index}.A1.query_key_value[0]",
    "bert.encoder.layer.{layer}.attention.self.key": "stack.blocks.{index}.A1.query_key_value[1]",
    "bert.encoder.layer.{layer}.attention.self.value": "stack.blocks.{index}.A1.query_key_value[2]",
    "bert.encoder.layer.{layer}.attention.output.dense": "stack.blocks.{index}.A1.output",
    "bert.encoder.layer.{layer}.attention.output.LayerNorm": "stack.blocks.{index}.n1",
    "bert.encoder.layer.{layer}.intermediate.dense": "stack.blocks.{index}.M1.hidden",
    "bert.encoder.layer.{layer}.output.dense": "stack.blocks.{index}.M1.output",
    "bert.encoder.layer.{layer}.output.LayerNorm": "stack.blocks.{index}.n2",
    "cls.predictions.bias": "head.bias",
    "cls.predictions.transform.dense": "head.hidden",
    "cls.predictions.transform.LayerNorm": "head.norm",
}


def tokens(model: Bert) -> tuple[Tensor]:
    """Two random sequences of at most 16 tokens."""
    token, position = model.embedding.token, model.embedding.position
    shape = (2, min(16, position.num_embeddings))
    return (torch.randint(token.num_embeddings, shape, generator=torch.Generator().manual_seed(0)),)


def call(tensors: dict[str, Tensor]) -> str:
    vocabulary, width = tensors["bert.embeddings.word_embeddings.weight"].shape
    context = len(tensors["bert.embeddings.position_embeddings.weight"])
    depth = count(tensors, r"bert\.encoder\.layer\.(\d+)\.")
    return f"bert(vocabulary={vocabulary}, context={context}, depth={depth}, width={width}, heads=...)"


FAMILIES = (
    Family(
        name="Hugging Face's BERT", ours=Bert,
        signature=("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.output.LayerNorm.weight"),
        table=TABLE, call=call, inputs=tokens,
        # The pooler and the prediction of the next sentence stand beside the head that we have.
        ignored=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*"),
        tied={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
    ),
)  # fmt: skip
