"""What is measured on a real model: block by block in one pass, and on a trained network."""

from resnorm.probes.affine import affine_maps
from resnorm.probes.blocks import blocks_of, measure, skip_share

__all__ = ["affine_maps", "blocks_of", "measure", "skip_share"]
