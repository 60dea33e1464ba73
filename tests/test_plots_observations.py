"""What a frame must have."""

import numpy
import pytest

from resnorm import plots
from tests.frames import runs


def test_wrong_columns_are_named_with_those_there_are():
    with pytest.raises(ValueError, match="no column 'epoch'; allowed: label, seed, step, metric, value"):
        plots.curves(runs(), x="epoch")
    with pytest.raises(ValueError, match="no metric 'bleu'; allowed: .*loss"):
        plots.curves(runs(), y="bleu")
    with pytest.raises(ValueError, match="did all runs diverge"):
        plots.curves(runs().assign(value=numpy.nan))
