"""Models by name, with the preprocessing and class names that belong to them.

`load` takes a registered name, `timm:NAME`, `torchvision:NAME`, `file:PATH` or a network of your own. Models that
come with glasshouse have a recipe too: `train` follows it, `publish` writes the weights and what was measured of them.
"""

from glasshouse.core.model import Model as Model
from glasshouse.core.model import Preprocess as Preprocess
from glasshouse.zoo import nets as nets
from glasshouse.zoo.adapters import list_models as list_models
from glasshouse.zoo.adapters import load as load
from glasshouse.zoo.recipes import add_recipe as add_recipe
from glasshouse.zoo.recipes import find_recipe as find_recipe
from glasshouse.zoo.recipes import list_recipes as list_recipes
from glasshouse.zoo.recipes.pool import ShortcutNet as ShortcutNet
from glasshouse.zoo.recipes.pool import shortcut_pool as shortcut_pool
from glasshouse.zoo.recipes.pool import train_pool as train_pool
from glasshouse.zoo.registry import ModelCard as ModelCard
from glasshouse.zoo.registry import card as card
from glasshouse.zoo.registry import register as register
from glasshouse.zoo.shipping import Shipped as Shipped
from glasshouse.zoo.shipping import measure as measure
from glasshouse.zoo.shipping import publish as publish
from glasshouse.zoo.training import Recipe as Recipe
from glasshouse.zoo.training import Trained as Trained
from glasshouse.zoo.training import step_reached as step_reached
from glasshouse.zoo.training import train as train
from glasshouse.zoo.weights import imagenet_names as imagenet_names
