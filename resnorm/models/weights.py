"""Weights of other libraries for our networks: the same tensors in the same order under other names."""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


def load_weights(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a state dict of torchvision, timm or Hugging Face into our network; return it.

    | our network                                         | whose weights                                             |
    |-----------------------------------------------------|-----------------------------------------------------------|
    | `resnet(depth=50)`                                  | torchvision's `resnet50`, and 18, 34, 101, 152            |
    | `resnet(depth=50, version=2)`                       | timm's `resnetv2_50`                                      |
    | `densenet(depth=121)`                               | torchvision's `densenet121`                               |
    | `vit()`                                             | torchvision's `vit_b_16`                                  |
    | `transformer_lm(..., activation="gelu_tanh")`       | Hugging Face's `GPT2LMHeadModel`                          |
    | `bert()`                                            | Hugging Face's `BertForMaskedLM`                          |

    ```python
    load_weights(resnet(depth=50), torchvision.models.resnet50(weights="DEFAULT").state_dict())
    load_weights(bert(), transformers.BertForMaskedLM.from_pretrained("bert-base-uncased").state_dict())
    ```

    `model`: of the same size, norm and number of classes or tokens. These libraries define their layers in the order in
    which they run, as ours do, so the tensors are matched by their order and checked by their shapes. Three things are
    put right first: timm has a block's projection first, GPT-2 stores its matrices transposed, and BERT keeps queries,
    keys and values apart. A classifier that is a 1x1 convolution is taken as the matrix that it is.
    Afterwards both networks give the same logits for the same input.
    Raises `ValueError`, and loads nothing, where a tensor is missing or has another shape; it names the first.
    Citation: he2016deep, he2016identity, huang2017densely, dosovitskiy2021image, devlin2019bert.
    """
    mine = {name: value for name, value in model.state_dict().items() if not _ignored(name)}
    # Old files have no counters of batches, and nothing is computed from them.
    state = {name: value for name, value in state.items() if not _ignored(name)}
    theirs = list(_bert(state) if any(".attention.self." in name for name in state) else _in_order(state))
    loaded = {}
    for (name, value), (its_name, its) in zip(mine.items(), theirs, strict=False):
        if its.dim() == 4 and value.dim() == 2 and its.shape[2:] == (1, 1):
            its = its.flatten(1)
        while its.dim() > value.dim() and its.shape[0] == 1:  # torchvision gives its class token and positions a batch
            its = its[0]
        if its.shape != value.shape:
            raise ValueError(
                f"{its_name!r} has shape {tuple(its.shape)}, and {name!r} of this model {tuple(value.shape)}: build the model "
                "with the size, classes, norm and version of the weights"
            )
        loaded[name] = its
    if len(mine) != len(theirs):
        raise ValueError(
            f"the weights have {len(theirs)} tensors, and this model has {len(mine)}: build it with the depth, norm and "
            "version of the weights"
        )
    model.load_state_dict(loaded, strict=False)
    return model


def _in_order(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in the order in which their layers run; GPT-2 multiplies by its matrices from the other side."""
    order = {name: place for place, name in enumerate(state)}

    def place(name: str) -> float:
        block, projection, _ = name.partition(".downsample.")
        return max(order[one] for one in state if one.startswith(f"{block}.")) + 0.5 if projection else order[name]

    for name in sorted(state, key=place):
        yield name, state[name].T if re.search(r"\.c_(attn|proj|fc)\.weight$", name) else state[name]


def _bert(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """BERT's tensors, with the three matrices of the attention in one; its decoder is the embedding, a second time."""
    for name, value in state.items():
        if ".self.query." in name:
            yield name, torch.cat([state[name.replace("query", part)] for part in ("query", "key", "value")])
        elif not re.search(r"\.self\.(key|value)\.|\.decoder\.|pooler|seq_relationship", name):
            yield name, value


def _ignored(name: str) -> bool:
    return name.endswith(("num_batches_tracked", "position_ids"))
