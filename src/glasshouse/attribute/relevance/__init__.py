"""Relevance propagation: the methods, and the rules that `lrp(rules=…)` takes."""

from glasshouse.attribute.relevance.rules import Rule as Rule
from glasshouse.attribute.relevance.rules import Share as Share
from glasshouse.attribute.relevance.rules import alpha_beta as alpha_beta
from glasshouse.attribute.relevance.rules import epsilon as epsilon
from glasshouse.attribute.relevance.rules import flat as flat
from glasshouse.attribute.relevance.rules import gamma as gamma
from glasshouse.attribute.relevance.rules import w_square as w_square
from glasshouse.attribute.relevance.rules import z_box as z_box
from glasshouse.attribute.relevance.rules import z_plus as z_plus
