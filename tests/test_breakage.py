"""Break the package on purpose and see the check that should notice go red.

Each case runs its check on the package as it is, which must pass, and on the broken one, which must raise
AssertionError.
"""

import dataclasses
import sys

import pytest
import test_branches
import test_catalog
import test_init
import test_models
import test_streams
import torch
from torch import nn

from resnorm import branches, catalog, init, letters, streams, words
from resnorm.models import cifar_resnet, resnet

RESNET = sys.modules["resnorm.models.resnet"]  # the package's attribute of this name is the function
TRANSFORMER = sys.modules["resnorm.models.transformer"]


def variant_equals_its_equation(name):
    return lambda: test_catalog.test_a_variant_equals_its_equation(name)


def inputs_untouched():
    test_catalog.check_input_untouched(*test_catalog.built("residual"))


def own_parameters():
    test_catalog.check_own_parameters(catalog.variant("encoder_post").block(16))


def stages_stride():
    test_models.check_strides(cifar_resnet(depth=8), 32)


def stages_of_resnet_stride():
    test_models.check_strides(resnet(depth=18, classes=10, width=8), 8)


class InPlace(nn.Module):
    """A branch that overwrites its input; nothing in its structure tells."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return self.linear(x.mul_(2))


# ---------------------------------------------------------------------------------------------------- mutations


def alpha_on_the_wrong_side(patch):
    wrong = dataclasses.replace(
        catalog.VARIANTS["deepnorm"], settings=lambda depth: {"a": letters.add(gain=init.deepnorm_alpha(depth))}
    )
    patch.setitem(catalog.VARIANTS, "deepnorm", wrong)


def scale_ignored_by_the_merge(patch):
    patch.setattr(letters.Add, "forward", lambda self, h, x: h + x)


def alpha_of_the_wrong_depth(patch):
    patch.setattr(catalog.variants, "deepnorm_alpha", lambda depth: (2 * depth) ** 0.25)


def no_beta(patch):
    patch.setitem(init.RULES, "deepnorm", init.RULES["xavier"])


def beta_on_queries(patch):
    patch.setattr(init, "deepnorm", lambda module, beta: init.xavier(module, query=beta, key=beta, output=beta, hidden=beta))


def norms_that_share_parameters(patch):
    built = words.Block._tie

    def tie_everything(self, settings):
        built(self, settings)
        norms = [module for name, module in self.named_children() if name.endswith("n")]
        for other in norms[1:]:
            other.weight, other.bias = norms[0].weight, norms[0].bias

    patch.setattr(words.Block, "_tie", tie_everything)


def a_stage_that_forgets_to_stride(patch):
    built = RESNET._block
    patch.setattr(RESNET, "_block", lambda word, channels, planes, stride, *others: built(word, channels, planes, 1, *others))


def a_stage_that_strides_twice(patch):
    built = RESNET._kernels
    patch.setattr(letters.ZeroPad, "forward", lambda self, x: nn.functional.pad(x[:, :, ::4, ::4], (0, 0, 0, 0, 0, self.extra)))
    patch.setattr(RESNET, "_kernels", lambda count, width, stride, *others: built(count, width, 4 if stride == 2 else 1, *others))


def an_in_place_branch(patch):
    patch.setattr(catalog.definition, "mlp", lambda *arguments: InPlace)


def a_guard_that_lets_in_place_operations_pass(patch):
    patch.setattr(words, "_writes_in_place", lambda module: False)


def a_relu_on_the_wrong_side_of_the_addition(patch):
    patch.setitem(catalog.VARIANTS, "resnet_v1", dataclasses.replace(catalog.VARIANTS["resnet_v1"], word="CnrCnra"))


def a_recursion_that_adds_its_own_output(patch):
    def run(self, x, **inputs):
        h = self._modules["0_F"](x)
        for position in (2, 4):
            h = self._modules[f"{position}_n"](x + h)
            x = h
        return h

    patch.setattr(words.Block, "forward", run)


def drop_path_without_rescaling(patch):
    patch.setattr(letters.DropPath, "forward", lambda self, h: h * (torch.rand(len(h), 1, 1) > self.rate) if self.training else h)


def masks_read_the_other_way_round(patch):
    attend = branches.SelfAttention.attend
    patch.setattr(
        branches.SelfAttention, "attend", lambda self, q, k, v, mask: attend(self, q, k, v, None if mask is None else ~mask)
    )


def attention_that_sees_the_future(patch):
    init_attention = branches.SelfAttention.__init__

    def forgetful(self, width, heads=8, causal=False, **others):
        init_attention(self, width, heads, False, **others)

    patch.setattr(branches.SelfAttention, "__init__", forgetful)


def a_stack_without_its_last_norm(patch):
    built = streams.Stack.__init__
    patch.setattr(
        streams.Stack, "__init__", lambda self, blocks, stream=None, last=None, width=None: built(self, blocks, stream, None, width)
    )


def a_projection_of_the_raw_input(patch):
    variant = dataclasses.replace(catalog.VARIANTS["projection_v2"], word="nrCnrCa")
    patch.setitem(catalog.VARIANTS, "projection_v2", variant)


def a_zeroed_norm_on_the_stream(patch):
    patch.setattr(init, "_last_norms", lambda word: [f"{i}_n" for i, letter in enumerate(word) if letter == "n"])


def with_settings(name, settings):
    """A mutation: the variant with other settings."""

    def mutate(patch):
        patch.setitem(catalog.VARIANTS, name, dataclasses.replace(catalog.VARIANTS[name], settings=settings))

    mutate.__name__ = f"{name}_with_other_settings"
    return mutate


def a_classifier_that_does_not_start_at_zero(patch):
    patch.setattr(init, "initialise", lambda module, rule, depth, head=None: init.RULES[rule](module, depth))


def guarded_against_in_place():
    with pytest.raises((ValueError, AssertionError)) as caught:
        block = words.Block("Fa", 4, F=lambda width: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(width, width)))
        test_catalog.check_input_untouched(block, (torch.randn(2, 4),))
    assert caught.type is not AssertionError, "the block was built, and changed its input"


def rows_that_mix_backwards(patch):
    forward = streams.hyper._Connections.forward
    patch.setattr(streams.hyper._Connections, "forward", lambda self, H: (*forward(self, H)[:2], forward(self, H)[2].mT))


def rows_that_are_read_in_equal_shares(patch):
    built = streams.hyper._ManifoldConnections.__init__

    def equal(self, width, rows, row):
        built(self, width, rows, row)
        torch.nn.init.constant_(self.read, torch.tensor(1 / rows).logit())

    patch.setattr(streams.hyper._ManifoldConnections, "__init__", equal)


def a_dual_stream_that_reads_its_sum(patch):
    patch.setattr(streams.Dual, "read", lambda self, S, i: S[1])


def attention_to_values_of_any_size(patch):
    patch.setattr(
        streams.Attend,
        "read",
        lambda self, S, i: sum(
            share.unsqueeze(-1) * value for share, value in zip((torch.stack(S) @ self.queries[i]).softmax(0), S, strict=True)
        ),
    )


def weights_that_forget_the_block_before(patch):
    built = streams.Depth.__init__

    def shifted(self, count):
        built(self, count)
        for weight in self.weights:
            weight.data = weight.data.roll(-1)

    patch.setattr(streams.Depth, "__init__", shifted)


def rows_without_columns(patch):
    patch.setattr(test_streams, "sinkhorn", lambda logits, iterations=20: logits.softmax(-1))


def branches_side_by_side_that_read_one_another(patch):
    def in_a_row(self, modules, h, x, first, inputs):
        total = h
        for part in self.parts:
            value = total
            for step in part:
                value = step.apply(modules, value, x, first, inputs)
            total = value if total is h else total + value
        return total

    patch.setattr(letters.Bracket, "apply", in_a_row)


def a_skip_before_the_norm(patch):
    patch.setitem(catalog.VARIANTS, "skip_after_norm", dataclasses.replace(catalog.VARIANTS["skip_after_norm"], word="nFa"))


def two_branches_whatever_the_word(patch):
    patch.setattr(TRANSFORMER, "residual_branches", lambda word: 2)


def number_of_branches():
    with pytest.MonkeyPatch.context() as patch:
        test_models.test_the_number_of_residual_branches_is_the_word_s(patch)


def dropout_behind_the_sum_only(patch):
    patch.setattr(TRANSFORMER, "with_dropout", lambda word, branches: word.replace("]", "]d"))


CASES = [
    (branches_side_by_side_that_read_one_another, variant_equals_its_equation("parallel")),
    (branches_side_by_side_that_read_one_another, variant_equals_its_equation("parallel_two_norms")),
    (a_skip_before_the_norm, variant_equals_its_equation("skip_after_norm")),
    (two_branches_whatever_the_word, number_of_branches),
    (dropout_behind_the_sum_only, lambda: test_models.test_dropout_follows_every_branch_and_is_still_in_eval("parallel")),
    (rows_that_mix_backwards, lambda: test_streams.test_hyper_connections_are_the_matrices_of_the_paper(False)),
    (rows_that_mix_backwards, lambda: test_streams.test_hyper_connections_are_the_matrices_of_the_paper(True)),
    (rows_that_are_read_in_equal_shares, lambda: test_streams.test_the_rows_of_hyper_connections_come_apart("manifold")),
    (a_dual_stream_that_reads_its_sum, test_streams.test_the_dual_stream_is_its_equation),
    (a_dual_stream_that_reads_its_sum, test_streams.test_the_normalised_part_of_the_dual_stream_is_post_norm),
    (attention_to_values_of_any_size, lambda: test_streams.test_attention_residuals_are_their_equation(2)),
    (weights_that_forget_the_block_before, test_streams.test_denseformer_starts_as_the_plain_stack_exactly),
    (rows_without_columns, test_streams.test_sinkhorn_is_doubly_stochastic_and_so_is_a_product),
    (alpha_on_the_wrong_side, variant_equals_its_equation("deepnorm")),
    (alpha_of_the_wrong_depth, variant_equals_its_equation("deepnorm")),
    (scale_ignored_by_the_merge, variant_equals_its_equation("xskip_norm")),
    (scale_ignored_by_the_merge, variant_equals_its_equation("keel")),
    (no_beta, lambda: test_models.test_models_tell_the_variant_how_many_residual_branches_there_are(test_models.language_model, 2)),
    (beta_on_queries, test_init.test_deepnorm_scales_what_is_written_and_not_what_is_compared),
    (norms_that_share_parameters, own_parameters),
    (a_stage_that_forgets_to_stride, stages_stride),
    (a_stage_that_forgets_to_stride, stages_of_resnet_stride),
    (a_stage_that_strides_twice, stages_stride),
    (an_in_place_branch, inputs_untouched),
    (a_guard_that_lets_in_place_operations_pass, guarded_against_in_place),
    (a_relu_on_the_wrong_side_of_the_addition, variant_equals_its_equation("resnet_v1")),
    (a_recursion_that_adds_its_own_output, variant_equals_its_equation("rskip_norm")),
    (drop_path_without_rescaling, test_catalog.test_drop_path_drops_whole_samples_and_rescales_the_others),
    (masks_read_the_other_way_round, lambda: test_branches.test_self_attention_equals_torch(test_branches.PAST, False)),
    (attention_that_sees_the_future, test_branches.test_causal_attention_does_not_see_later_tokens),
    (
        a_stack_without_its_last_norm,
        lambda: test_models.test_stem_and_tail_follow_from_the_word("resnet_v2", ["Convolution"], "BatchNorm", ["ReLU"]),
    ),
    (a_projection_of_the_raw_input, variant_equals_its_equation("projection_v2")),
    (
        with_settings("exclusive_gating", lambda bias: {"a": letters.add(gate="shortcut_only", gate_bias=bias)}),
        variant_equals_its_equation("exclusive_gating"),
    ),
    (
        with_settings("dropout_shortcut", lambda rate: {"a": letters.add(dropout=rate)}),
        test_catalog.test_dropout_on_the_shortcut_drops_single_values_and_rescales_none,
    ),
    (
        with_settings("stochastic_depth", lambda last, block, depth: {"p": letters.drop_path(last)}),
        test_catalog.test_stochastic_depth_drops_in_proportion_to_the_block,
    ),
    (
        a_classifier_that_does_not_start_at_zero,
        lambda: test_models.test_fixup_starts_with_a_classifier_of_zeros_and_identities(cifar_resnet),
    ),
    (a_zeroed_norm_on_the_stream, lambda: test_init.test_zero_last_gain_makes_the_block_start_without_its_branch("Fnan")),
]


@pytest.mark.parametrize(("mutate", "check"), CASES, ids=[f"{mutate.__name__}-{i}" for i, (mutate, _) in enumerate(CASES)])
def test_the_check_is_green_on_the_package_and_red_on_the_mutation(mutate, check, monkeypatch):
    check()
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check()
