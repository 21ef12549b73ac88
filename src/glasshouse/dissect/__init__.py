"""What single units of a network respond to."""

from glasshouse.dissect.ablation import ablate_units as ablate_units
from glasshouse.dissect.activity import Exemplars as Exemplars
from glasshouse.dissect.activity import Picks as Picks
from glasshouse.dissect.activity import exemplars as exemplars
from glasshouse.dissect.codes import SparseDictionary as SparseDictionary
from glasshouse.dissect.damage import Ablation as Ablation
from glasshouse.dissect.damage import Correlation as Correlation
from glasshouse.dissect.damage import Traits as Traits
from glasshouse.dissect.detection import units as units
from glasshouse.dissect.dictionary import SemanticDictionary as SemanticDictionary
from glasshouse.dissect.dictionary import Word as Word
from glasshouse.dissect.dictionary import semantic_dictionary as semantic_dictionary
from glasshouse.dissect.dissection import Dissection as Dissection
from glasshouse.dissect.factors import NeuronGroups as NeuronGroups
from glasshouse.dissect.factors import neuron_groups as neuron_groups
from glasshouse.dissect.rotations import Rotations as Rotations
from glasshouse.dissect.rotations import rotation as rotation
from glasshouse.dissect.rotations import rotation_test as rotation_test
from glasshouse.dissect.sparse import sparse_dictionary as sparse_dictionary
from glasshouse.dissect.stored import Activations as Activations
from glasshouse.dissect.stored import activations as activations
from glasshouse.dissect.tally import Best as Best
from glasshouse.dissect.tally import Tally as Tally
from glasshouse.dissect.tally import read_tally as read_tally
