"""Where a model fails, and what its explanations show of it."""

from glasshouse.diagnose.attacks import Adversarial as Adversarial
from glasshouse.diagnose.attacks import fgsm as fgsm
from glasshouse.diagnose.attacks import pgd as pgd
from glasshouse.diagnose.detect import Detection as Detection
from glasshouse.diagnose.detect import detect_adversarial as detect_adversarial
from glasshouse.diagnose.recover import Recovery as Recovery
from glasshouse.diagnose.recover import recover_labels as recover_labels
