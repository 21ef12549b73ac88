"""Measure how maps that know nothing of a model score, for src/glasshouse/evaluate/calibration.json.

Models and images: creatures and houses of the scene world with the classifiers shipped for them, and the photographs of
scikit-image with EfficientNet-Lite0, each photograph whole and in four quarters. Run it after a change of the card's
scores; a few minutes.
"""

import json
from pathlib import Path

import torch
from PIL import Image

from glasshouse import data, evaluate, zoo
from glasshouse.cli.reports import bundled_photos
from glasshouse.core import Explanation, Images, Model
from glasshouse.evaluate.calibration import CALIBRATED, standing
from glasshouse.evaluate.truth.controls import ignorant

N_SCENES = 96
KINDS = ("centre", "edges", "random")
OUT = Path(__file__).parents[1] / "src/glasshouse/evaluate/calibration.json"


def photographs(model: Model) -> Images:
    """Each photograph, and its quarters."""
    pieces = []
    for path in bundled_photos():
        photo = Image.open(path).convert("RGB")
        w, h = photo.size
        pieces.append(photo)
        pieces += [photo.crop((x, y, x + w // 2, y + h // 2)) for x in (0, w // 2) for y in (0, h // 2)]
    return model.preprocess(pieces)


def scores(model: Model, images: Images) -> dict[str, dict[str, list[float]]]:
    """Every calibrated score of every kind of map."""
    with torch.no_grad():
        top = model.module.eval()(images).argmax(1).tolist()
    answers = evaluate.Answers(model, images, top)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in CALIBRATED}
    for kind, maps in ignorant(images, 0).items():
        if kind in KINDS:
            explanation = Explanation(maps, maps, kind, tuple(top), torch.zeros(len(maps)), {})
            card = evaluate.card(model, images, explanation, tier="standard", answers=answers)
            for name in CALIBRATED:
                found[name][kind] = [v for v in standing(card.scores[name]).tolist() if v == v]
    return found


def main() -> None:
    sets = {
        name: data.scenes(preset, N_SCENES, size=64, seed=77).images
        for name, preset in {"creatures_cnn": "creatures", "creatures_vit": "creatures", "houses_cnn": "houses"}.items()
    }
    pooled: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in KINDS} for name in CALIBRATED}
    counts = dict[str, int]()
    for name in (*sets, "efficientnet_lite0"):
        model = zoo.load(name)
        images = model.preprocess.normalise(sets[name]) if name in sets else photographs(model)
        counts[name] = len(images)
        for metric, kinds in scores(model, images).items():
            for kind, values in kinds.items():
                pooled[metric][kind] += values
    steps = torch.linspace(0, 1, 21, dtype=torch.float64)
    quantiles = {
        metric: {
            kind: [round(q, 4) for q in torch.tensor(values, dtype=torch.float64).quantile(steps).tolist()]
            for kind, values in kinds.items()
        }
        for metric, kinds in pooled.items()
    }
    OUT.write_text(json.dumps({"images": counts, "quantiles": quantiles}, indent=1) + "\n")


if __name__ == "__main__":
    main()
