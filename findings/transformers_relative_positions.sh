#!/usr/bin/env bash
# Hugging Face transformers 5 takes BertConfig(position_embedding_type="relative_key") and builds absolute positions.
#
# In transformers 4 the setting gives each attention a table of distances, `distance_embedding.weight`, and other outputs.
# In 5 the field is kept in the configuration and nothing reads it: the same outputs as without it, no table, no error; a
# file that was trained with relative positions loads, its tables are reported as unexpected, and the network is another.
# Who compares networks by their configurations must look at the field all the same.
#
# Seen with torch 2.9.1 on CPU, Python 3.11:
#   transformers 4.57.1: difference of the outputs 2.624, tables in the state dict: 1
#   transformers 5.23.0: difference of the outputs 0.000, tables in the state dict: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/check.py" <<'PYTHON'
import sys

import torch
import transformers
from transformers import BertConfig, BertModel

transformers.utils.logging.set_verbosity_error()
sizes = dict(vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)


def built(**options):
    torch.manual_seed(0)
    network = BertModel(BertConfig(**sizes, max_position_embeddings=8, initializer_range=1.0, **options))
    return network.eval()


def outputs(network):
    with torch.no_grad():
        return network(torch.arange(6)[None]).last_hidden_state


absolute, network = built(), built(position_embedding_type="relative_key")
network.load_state_dict(absolute.state_dict(), strict=False)  # all weights but the tables are the same
difference = (outputs(absolute) - outputs(network)).abs().max().item()
tables = sum("distance_embedding" in name for name in network.state_dict())
print(f"transformers {transformers.__version__}: difference of the outputs {difference:.3f}, tables in the state dict: {tables}")
sys.exit((difference > 0.01, tables) != {"4": (True, 1), "5": (False, 0)}[transformers.__version__[0]])
PYTHON
python3 -m venv "$folder/environment"
for version in 4.57.1 5.23.0; do
    "$folder/environment/bin/pip" install --quiet torch==2.9.1 "transformers==$version"
    "$folder/environment/bin/python" "$folder/check.py"
done
