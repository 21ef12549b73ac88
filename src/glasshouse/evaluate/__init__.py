"""How far to trust an explanation: is it faithful, sane, complete, concise?"""

from glasshouse.evaluate.axioms import completeness_gap as completeness_gap
from glasshouse.evaluate.complexity import edge_correlation as edge_correlation
from glasshouse.evaluate.complexity import entropy as entropy
from glasshouse.evaluate.complexity import sign_balance as sign_balance
from glasshouse.evaluate.complexity import sparseness as sparseness
from glasshouse.evaluate.curves import deletion as deletion
from glasshouse.evaluate.curves import insertion as insertion
from glasshouse.evaluate.curves import srg as srg
from glasshouse.evaluate.engine import Answers as Answers
from glasshouse.evaluate.fidelity import faithfulness_correlation as faithfulness_correlation
from glasshouse.evaluate.fidelity import mu_fidelity as mu_fidelity
from glasshouse.evaluate.sanity import class_sensitivity as class_sensitivity
from glasshouse.evaluate.sanity import randomise_parameters as randomise_parameters
from glasshouse.evaluate.trust import card as card
from glasshouse.evaluate.trust import list_metrics as list_metrics
from glasshouse.evaluate.truth import Benchmark as Benchmark
from glasshouse.evaluate.truth import Effects as Effects
from glasshouse.evaluate.truth import benchmark as benchmark
from glasshouse.evaluate.truth import part_effects as part_effects
from glasshouse.evaluate.words import verdicts as verdicts
from glasshouse.evaluate.words import warnings as warnings
