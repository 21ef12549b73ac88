"""Networks defined here, with layer names made for reading."""

from glasshouse.zoo.nets import efficientnet_lite as efficientnet_lite
