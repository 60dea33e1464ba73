"""What a type checker and an editor read: `__init__.py` loads each of these names at its first use."""

__version__: str
PUBLIC: dict[str, list[str]]

from resnorm.norms import check_conversion as check_conversion
from resnorm.norms import convert_norm as convert_norm
from resnorm.norms import norm as norm
from resnorm.recursion import fuse as fuse
from resnorm.letters import Scalar as Scalar
from resnorm.letters import add as add
from resnorm.letters import concat as concat
from resnorm.letters import drop_path as drop_path
from resnorm.letters import dropout as dropout
from resnorm.letters import layer_scale as layer_scale
from resnorm.letters import lerp as lerp
from resnorm.words import Block as Block
from resnorm.words import Tied as Tied
from resnorm.words import draw as draw
from resnorm.words import equation as equation
from resnorm.words import parse as parse
from resnorm.streams import Attend as Attend
from resnorm.streams import Dense as Dense
from resnorm.streams import Depth as Depth
from resnorm.streams import Dual as Dual
from resnorm.streams import Hyper as Hyper
from resnorm.streams import Jump as Jump
from resnorm.streams import Plain as Plain
from resnorm.streams import Stack as Stack
from resnorm.streams import Stream as Stream
from resnorm.streams import Sum as Sum
from resnorm.branches import attention as attention
from resnorm.branches import conv as conv
from resnorm.branches import conv1x1 as conv1x1
from resnorm.branches import conv3x3 as conv3x3
from resnorm.branches import cross_attention as cross_attention
from resnorm.branches import linear as linear
from resnorm.branches import mlp as mlp
from resnorm.catalog import VARIANTS as VARIANTS
from resnorm.catalog import Variant as Variant
from resnorm.catalog import variant as variant
from resnorm.models import bert as bert
from resnorm.models import build as build
from resnorm.models import cifar_densenet as cifar_densenet
from resnorm.models import cifar_resnet as cifar_resnet
from resnorm.models import densenet as densenet
from resnorm.models import generate as generate
from resnorm.models import load_weights as load_weights
from resnorm.models import mlp_stack as mlp_stack
from resnorm.models import resnet as resnet
from resnorm.models import seq2seq as seq2seq
from resnorm.models import transformer_lm as transformer_lm
from resnorm.models import translate as translate
from resnorm.models import vit as vit
from resnorm.theory import predict as predict
from resnorm.theory import skip_share as skip_share
from resnorm.probes import measure as measure
from resnorm.data import DataSet as DataSet
from resnorm.data import load as load
from resnorm.training import Recipe as Recipe
from resnorm.training import Run as Run
from resnorm.training import fit as fit
from resnorm.lab import Experiment as Experiment
from resnorm.lab import Record as Record
from resnorm.lab import Store as Store
from resnorm.lab import run as run
from resnorm.lab import sweep as sweep
from resnorm.claims import claim as claim

def describe_environment() -> str: ...
