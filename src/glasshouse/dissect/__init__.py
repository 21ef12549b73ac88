"""What single units of a network respond to."""

from glasshouse.dissect.activity import Exemplars as Exemplars
from glasshouse.dissect.activity import Picks as Picks
from glasshouse.dissect.activity import exemplars as exemplars
