"""Which pixels, and which of a layer's units, made this decision."""

from glasshouse.attribute.attention import attention_relevance as attention_relevance
from glasshouse.attribute.attention import attention_rollout as attention_rollout
from glasshouse.attribute.averages import smooth as smooth
from glasshouse.attribute.backprops import deconvnet as deconvnet
from glasshouse.attribute.backprops import guided_backprop as guided_backprop
from glasshouse.attribute.between import layer_attribution as layer_attribution
from glasshouse.attribute.blocks import channel_attribution as channel_attribution
from glasshouse.attribute.blocks import group_attribution as group_attribution
from glasshouse.attribute.blocks import linear_approximation as linear_approximation
from glasshouse.attribute.blocks import spatial_attribution as spatial_attribution
from glasshouse.attribute.cam import cam as cam
from glasshouse.attribute.comparison import Comparison as Comparison
from glasshouse.attribute.comparison import compare as compare
from glasshouse.attribute.differences import deep_lift as deep_lift
from glasshouse.attribute.expected import expected_gradients as expected_gradients
from glasshouse.attribute.games import kernel_shap as kernel_shap
from glasshouse.attribute.gradients import input_x_gradient as input_x_gradient
from glasshouse.attribute.gradients import integrated_gradients as integrated_gradients
from glasshouse.attribute.gradients import saliency as saliency
from glasshouse.attribute.perturb import occlusion as occlusion
from glasshouse.attribute.random_masks import rise as rise
from glasshouse.attribute.superpixels import regions as regions
from glasshouse.attribute.surrogates import lime as lime
from glasshouse.attribute.tokens import token_occlusion as token_occlusion
from glasshouse.attribute.units import LayerAttribution as LayerAttribution
from glasshouse.attribute.units import UnitAttribution as UnitAttribution
