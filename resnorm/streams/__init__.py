r"""Streams: what flows from block to block, and the stack that drives it.

A word describes the skip inside one block. A skip that crosses blocks is a stream: a state with four verbs.

$$S_0 = \text{open}(x), \; h_i = B_i(\text{read}(S_i, i)), \quad S_{i+1} = \text{write}(S_i, h_i, i), \quad y = \text{close}(S_L)$$

With `Sum`, the block `nF` gives the same network as the block `nFa` in a plain stack: the merge has moved into the stream.

| stream   | what a block reads                                   | its blocks                    |
|----------|------------------------------------------------------|-------------------------------|
| `Plain`  | the block before                                     | with a merge: `nFa`, `Fan`    |
| `Sum`    | the sum of input and branches                        | branches: `nF`                |
| `Dense`  | input and branches, concatenated                     | branches: `nF`                |
| `Jump`   | the block before; the output reads all blocks        | any                           |
| `Dual`   | the normalised of two sums                           | branches without norm: `F`    |
| `Depth`  | a learned mean of all blocks before                  | with a merge: `nFa`           |
| `Attend` | a mean of all branches, weighted by attention        | branches: `nF`                |
| `Hyper`  | a mix of n copies of the stream                      | branches: `nF`                |
"""

from resnorm.streams.depth import Attend, Depth, Dual, Jump
from resnorm.streams.hyper import Hyper, sinkhorn
from resnorm.streams.stack import Stack
from resnorm.streams.stream import Dense, Plain, Stream, Sum

__all__ = ["Attend", "Dense", "Depth", "Dual", "Hyper", "Jump", "Plain", "Stack", "Stream", "Sum", "sinkhorn"]
