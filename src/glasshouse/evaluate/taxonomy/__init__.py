"""What each method explains, in which form, at what cost, with which claims, and how it can be put to the test.

    from glasshouse.evaluate import taxonomy

    taxonomy.find("processing.*", access={"forward"})     # what explains a model of which only outputs are to be had
    taxonomy.describe("grad_cam")                         # all that is known of a method
    taxonomy.evaluations("grad_cam", given=())            # how to test it without masks or a data set

Gilpin, Bau, Yuan, Bajwa, Specter and Kagal, "Explaining explanations: an overview of interpretability of machine
learning", DSAA 2018.
"""

from glasshouse.evaluate.taxonomy.asking import Evaluation as Evaluation
from glasshouse.evaluate.taxonomy.asking import evaluations as evaluations
from glasshouse.evaluate.taxonomy.asking import find as find
from glasshouse.evaluate.taxonomy.asking import methods_for as methods_for
from glasshouse.evaluate.taxonomy.describing import Described as Described
from glasshouse.evaluate.taxonomy.describing import describe as describe
from glasshouse.evaluate.taxonomy.describing import size as size
from glasshouse.evaluate.taxonomy.entries import metric_names as metric_names
from glasshouse.evaluate.taxonomy.entries import metric_spec as metric_spec
from glasshouse.evaluate.taxonomy.showing import metric_dict as metric_dict
from glasshouse.evaluate.taxonomy.showing import metric_table as metric_table
from glasshouse.evaluate.taxonomy.showing import table as table
from glasshouse.evaluate.taxonomy.showing import to_dict as to_dict
from glasshouse.evaluate.taxonomy.specs import KINDS as KINDS
from glasshouse.evaluate.taxonomy.specs import MEANINGS as MEANINGS
from glasshouse.evaluate.taxonomy.specs import Control as Control
from glasshouse.evaluate.taxonomy.specs import MethodSpec as MethodSpec
from glasshouse.evaluate.taxonomy.specs import MetricSpec as MetricSpec
