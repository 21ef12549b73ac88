"""Which pixels, and which of a layer's units, made this decision."""

from glasshouse.attribute.attention import attention_relevance as attention_relevance
from glasshouse.attribute.attention import attention_rollout as attention_rollout
from glasshouse.attribute.averages import smooth as smooth
from glasshouse.attribute.backprops import deconvnet as deconvnet
from glasshouse.attribute.backprops import guided_backprop as guided_backprop
from glasshouse.attribute.cam import cam as cam
from glasshouse.attribute.comparison import Comparison as Comparison
from glasshouse.attribute.comparison import compare as compare
from glasshouse.attribute.games import kernel_shap as kernel_shap
from glasshouse.attribute.gradients import input_x_gradient as input_x_gradient
from glasshouse.attribute.gradients import integrated_gradients as integrated_gradients
from glasshouse.attribute.gradients import saliency as saliency
from glasshouse.attribute.perturb import occlusion as occlusion
from glasshouse.attribute.random_masks import rise as rise
from glasshouse.attribute.superpixels import regions as regions
from glasshouse.attribute.surrogates import lime as lime
from glasshouse.attribute.tokens import token_occlusion as token_occlusion
