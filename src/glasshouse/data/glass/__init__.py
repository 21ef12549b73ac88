"""Glass boxes: classifiers and generators whose inner truth is known exactly."""

from glasshouse.data.glass.colours import colour_detector as colour_detector
from glasshouse.data.glass.colours import planted_concept as planted_concept
from glasshouse.data.glass.colours import wired_classifier as wired_classifier
from glasshouse.data.glass.little_scene import CLASSES as CLASSES
from glasshouse.data.glass.mask_generator import GlassUnit as GlassUnit
from glasshouse.data.glass.mask_generator import MaskGenerator as MaskGenerator
from glasshouse.data.glass.outlines import UPRIGHT as UPRIGHT
from glasshouse.data.glass.outlines import shape_matcher as shape_matcher
from glasshouse.data.glass.readers import linear_classifier as linear_classifier
from glasshouse.data.glass.readers import null_channels as null_channels
from glasshouse.data.glass.readers import separate_evidence as separate_evidence
from glasshouse.data.glass.readers import watermark_reader as watermark_reader
from glasshouse.data.glass.style_generator import StyleGlassBox as StyleGlassBox
from glasshouse.data.glass.templates import counter as counter
from glasshouse.data.glass.templates import logic_gates as logic_gates
from glasshouse.data.glass.templates import plate as plate
from glasshouse.data.glass.templates import stamp as stamp
from glasshouse.data.glass.templates import template_matcher as template_matcher
from glasshouse.data.glass.templates import weighted_sum as weighted_sum
from glasshouse.data.glass.truth import Glass as Glass
from glasshouse.data.glass.truth import Truth as Truth
from glasshouse.data.glass.truth import random_rotation as random_rotation
