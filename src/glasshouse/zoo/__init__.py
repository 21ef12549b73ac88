"""Models by name, with the preprocessing and class names that belong to them.

`load` takes a registered name, `timm:NAME`, `torchvision:NAME`, `file:PATH` or a network of your own.
"""

from glasshouse.core.model import Model as Model
from glasshouse.core.model import Preprocess as Preprocess
from glasshouse.zoo import nets as nets
from glasshouse.zoo.adapters import list_models as list_models
from glasshouse.zoo.adapters import load as load
from glasshouse.zoo.registry import ModelCard as ModelCard
from glasshouse.zoo.registry import register as register
from glasshouse.zoo.weights import imagenet_names as imagenet_names
