"""The Vision Transformer: an image as a row of patches."""

import torch
from torch import Tensor, nn

from resnorm.models.transformer import initialise_transformer, transformer_stack
from resnorm.streams import Stack


class VisionTransformer(nn.Module):
    """Cut the image into patches, run the stack over them and a class token, classify that token; see `vit`."""

    def __init__(self, inputs: int, size: int, patch: int, classes: int, stack: Stack, dropout: float):
        super().__init__()
        width = stack.out_width
        self.size = size
        self.class_token = nn.Parameter(torch.zeros(width))
        self.patches = nn.Conv2d(inputs, width, patch, patch)
        self.position = nn.Embedding(1 + (size // patch) ** 2, width)
        self.dropout = nn.Dropout(dropout)
        self.stack = stack
        self.head = nn.Linear(width, classes)
        # A patch of unit variance becomes a token of unit variance, and the positions stay small beside it.
        nn.init.normal_(self.patches.weight, std=(inputs * patch**2) ** -0.5)
        nn.init.zeros_(self.patches.bias)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(
                f"got an image of {tuple(x.shape[-2:])} pixels, and this model is for {self.size}; build it with size=..."
            )
        x = self.patches(x).flatten(2).mT
        x = torch.cat((self.class_token.to(x.dtype).expand(len(x), 1, -1), x), 1) + self.position.weight
        return self.head(self.stack(self.dropout(x))[:, 0])


def vit(
    *,
    inputs=3,
    size=224,
    classes=1000,
    patch=16,
    depth=12,
    width=768,
    heads=12,
    variant="pre",
    norm="layer(eps=1e-6)",
    activation="gelu",
    dropout=0.0,
    expansion=4,
    initialisation=None,
    **options,
) -> VisionTransformer:
    r"""Build a Vision Transformer: $y = W\, n\big(B_L(\dots B_1([c \Vert P x] + p))\big)_0$.

    P maps every patch of `patch` times `patch` pixels to a token, c is the class token and p the positions, all learned.
    The other settings are those of `transformer_lm`. The defaults are ViT-B/16, torchvision's `vit_b_16`;
    `load_weights` takes its weights, and those of timm and Hugging Face (whose norms have eps=1e-12). For images of 32
    pixels take `size=32, patch=4` and a smaller width.
    Shapes: input (batch, inputs, size, size), output (batch, classes).
    Raises `ValueError` where the patches do not tile the image, and as `transformer_lm`.
    Citation: dosovitskiy2021image.
    """
    if size % patch:
        raise ValueError(f"vit: patches of {patch} pixels do not tile an image of {size}; use a patch that divides {size}")
    stack = transformer_stack(depth, width, heads, variant, norm, activation, dropout, expansion, **options)
    initialise_transformer(stack, variant, initialisation)
    return VisionTransformer(inputs, size, patch, classes, stack, dropout)
