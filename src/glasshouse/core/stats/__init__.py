"""Streaming statistics: counted in batches, merged exactly, saved as plain tensors."""

from glasshouse.core.stats.histogram import Histogram as Histogram
from glasshouse.core.stats.moments import Covariance as Covariance
from glasshouse.core.stats.moments import Moments as Moments
from glasshouse.core.stats.overlap import Overlap as Overlap
from glasshouse.core.stats.protocol import Stat as Stat
from glasshouse.core.stats.quantiles import Quantiles as Quantiles
from glasshouse.core.stats.quantiles import UpperTail as UpperTail
from glasshouse.core.stats.topk import Sample as Sample
from glasshouse.core.stats.topk import TopK as TopK
from glasshouse.core.stats.topk import TopMaps as TopMaps
