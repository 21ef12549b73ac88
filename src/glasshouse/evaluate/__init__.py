"""How far to trust an explanation: is it faithful, sane, complete, concise?"""

from glasshouse.evaluate.axioms import completeness_gap as completeness_gap
from glasshouse.evaluate.complexity import edge_correlation as edge_correlation
from glasshouse.evaluate.complexity import entropy as entropy
from glasshouse.evaluate.complexity import sign_balance as sign_balance
from glasshouse.evaluate.complexity import sparseness as sparseness
from glasshouse.evaluate.engine import Answers as Answers
from glasshouse.evaluate.faithfulness.curves import deletion as deletion
from glasshouse.evaluate.faithfulness.curves import insertion as insertion
from glasshouse.evaluate.faithfulness.curves import srg as srg
from glasshouse.evaluate.faithfulness.subsets import faithfulness_correlation as faithfulness_correlation
from glasshouse.evaluate.faithfulness.subsets import mu_fidelity as mu_fidelity
from glasshouse.evaluate.sanity.classes import class_sensitivity as class_sensitivity
from glasshouse.evaluate.sanity.weights import randomise_parameters as randomise_parameters
from glasshouse.evaluate.trust import card as card
from glasshouse.evaluate.trust import list_metrics as list_metrics
from glasshouse.evaluate.truth.benchmark import Benchmark as Benchmark
from glasshouse.evaluate.truth.benchmark import Effects as Effects
from glasshouse.evaluate.truth.benchmark import benchmark as benchmark
from glasshouse.evaluate.truth.benchmark import part_effects as part_effects
from glasshouse.evaluate.words import verdicts as verdicts
from glasshouse.evaluate.words import warnings as warnings
