"""What is measured on a real model: block by block in one pass, and on a trained network."""

from resnorm.norms.checking import evaluating
from resnorm.probes.affine import affine_maps
from resnorm.probes.agreement import agreement, largest_difference
from resnorm.probes.batches import batch_errors, variance_of_image_means
from resnorm.probes.blocks import blocks_of, measure, measure_in_parts, skip_share, streams_of
from resnorm.probes.contrast import contrast
from resnorm.probes.costs import memory_passes, times
from resnorm.probes.covariate_shift import covariate_shift, gradient_steps, shift_and_roughness
from resnorm.probes.examples import example_gradients, last_layer_gradient
from resnorm.probes.landscape import landscape, landscape_plane
from resnorm.probes.lesions import lesions
from resnorm.probes.propagation import alignment, branch_gains, propagation
from resnorm.probes.random_streams import cosine_of, pairs, random_passage, random_streams
from resnorm.probes.rank import rank_residual
from resnorm.probes.reads import reads
from resnorm.probes.scores import accuracy, batch_noise, batch_statistics
from resnorm.probes.sharpness import sharpness
from resnorm.probes.spelling import last_norm, respelled, spelling
from resnorm.probes.stages import second_skip, within_stages
from resnorm.probes.stored import parameter_count, stored_bytes
from resnorm.probes.streams import activations, mixing

__all__ = [
    "accuracy",
    "activations",
    "affine_maps",
    "agreement",
    "alignment",
    "batch_errors",
    "batch_noise",
    "batch_statistics",
    "blocks_of",
    "branch_gains",
    "contrast",
    "cosine_of",
    "covariate_shift",
    "evaluating",
    "example_gradients",
    "gradient_steps",
    "landscape",
    "landscape_plane",
    "largest_difference",
    "last_layer_gradient",
    "last_norm",
    "lesions",
    "measure",
    "measure_in_parts",
    "memory_passes",
    "mixing",
    "pairs",
    "parameter_count",
    "propagation",
    "random_passage",
    "random_streams",
    "rank_residual",
    "reads",
    "respelled",
    "second_skip",
    "sharpness",
    "shift_and_roughness",
    "skip_share",
    "spelling",
    "stored_bytes",
    "streams_of",
    "times",
    "variance_of_image_means",
    "within_stages",
]
