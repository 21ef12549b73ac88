"""What is raced: every case, family by family.

The targets are those of the project's design: how many times faster than the peer, and which share of the best that the
network's own passes allow.
"""

from benchmarks.case import Case
from benchmarks.cases import (
    ablation,
    basics,
    cams,
    concepts,
    differences,
    dissection,
    evaluation,
    extremal,
    localisation,
    meaningful,
    occlusion,
    relevance,
    sampling,
    transformers,
    visualization,
)

CASES: tuple[Case, ...] = (
    *basics.CASES,
    *cams.CASES,
    *differences.CASES,
    *relevance.CASES,
    *occlusion.CASES,
    *sampling.CASES,
    *meaningful.CASES,
    *extremal.CASES,
    *transformers.CASES,
    *dissection.CASES,
    *ablation.CASES,
    *concepts.CASES,
    *visualization.CASES,
    *evaluation.CASES,
    *localisation.CASES,
)
