"""What the capital letters of a word stand for: factories `width -> nn.Module` of learned branches."""

from resnorm.branches.attention import Cache, CrossAttention, FirstValues, SelfAttention, attention, cross_attention
from resnorm.branches.conv import Blur, Convolution, conv, conv1x1, conv3x3
from resnorm.branches.damped import Damped
from resnorm.branches.mlp import MLP, Linear, linear, mlp

__all__ = [
    "MLP",
    "Blur",
    "Cache",
    "Convolution",
    "CrossAttention",
    "Damped",
    "FirstValues",
    "Linear",
    "SelfAttention",
    "attention",
    "conv",
    "conv1x1",
    "conv3x3",
    "cross_attention",
    "linear",
    "mlp",
]
