"""Networks defined here, with layer names made for reading."""

from glasshouse.zoo.nets import efficientnet_lite as efficientnet_lite
from glasshouse.zoo.nets import residual as residual
from glasshouse.zoo.nets import unet as unet
from glasshouse.zoo.nets import vit as vit
