"""What is said of units, tried on images that played no part in saying it."""

from dataclasses import replace

import torch

from glasshouse import core, data, dissect, evaluate
from glasshouse.data import glass

# A network whose eight units each see one paint, and scenes in these paints.
model = glass.colour_detector().module
learnt, fresh = (data.scenes("shapes", 60, size=32, seed=seed) for seed in (0, 1))
colours = [f"{name}-c" for name in glass.colours.PALETTE]
claims = dissect.units(model, data.with_labels(learnt), layer="inside_on", concepts=colours, min_images=3)
names = [label.name.removesuffix("-c") for label in claims.labels]


def maps_of(images: torch.Tensor) -> torch.Tensor:
    """The units' maps."""
    with core.probe(model, "inside_on") as seen, torch.no_grad():
        model(images)
    return seen["inside_on"]


def histogram(images: torch.Tensor) -> torch.Tensor:
    """How much of an image has each of 125 colours: what a simple reader sees of it."""
    bins = (images.flatten(2) * 4.999).long()
    return torch.nn.functional.one_hot(bins[:, 0] * 25 + bins[:, 1] * 5 + bins[:, 2], 125).float().mean(1)


maps = maps_of(fresh.images)
masks = torch.stack([fresh.mask_of(name, "color") for name in names], 1)

# --8<-- [start:call]
detected = evaluate.detection_accuracy(maps, masks, claims.threshold, claims.best)
print(detected)
print(detected.iou, "by chance", detected.iou_chance)

null = evaluate.iou_null(maps, masks, claims.threshold, n_shuffles=99)
print(null)
print(null.p_value.amin(1), "if the concept was named beforehand")
print(null.corrected.amin(1), "as the best of", len(names))
# --8<-- [end:call]

# --8<-- [start:ablation]
paint = model(fresh.images).argmax(1).tolist()  # the class of an image: the paint that covers most of it
damage = dissect.ablate_units(model, list(zip(fresh.images, paint, strict=True)), layer="inside_on")
print(evaluate.ablation_specificity(damage.damage, damage.traits.class_mean))
# --8<-- [end:ablation]

# --8<-- [start:pictures]
paints = torch.tensor(list(glass.colours.PALETTE.values()))
pictures = paints[:, :, None, None].expand(8, 3, 32, 32)  # what excites each unit: its own paint all over
drawn = maps_of(pictures).mean((2, 3)).diagonal()
natural = maps.mean((2, 3))
print(evaluate.activation_percentile(drawn, natural, wanted=98))

order = natural[:, 0].argsort()
seen = histogram(fresh.images)
print(evaluate.forced_choice(seen[order[-9:]], seen[order[:9]], histogram(pictures[:1])))
# --8<-- [end:pictures]

# --8<-- [start:elsewhere]
other = glass.colour_detector(half=0.02, soft=0.1).module  # another network, with softer borders


def means_of(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The units' means over positions."""
    with core.probe(network, "inside_on") as kept, torch.no_grad():
        network(images)
    return kept["inside_on"].mean((2, 3))


print(evaluate.picture_transfer(means_of(other, pictures), means_of(other, fresh.images), own=natural, wanted=98))
print(evaluate.picture_naturalness(histogram(pictures), histogram(fresh.images)))

layers = [lambda images: images, maps_of]
kinds = (pictures[:1], fresh.images[order[-9:]], fresh.images[order[:9]])
print(evaluate.processing_path(*([look(images) for look in layers] for images in kinds)))
# --8<-- [end:elsewhere]

# --8<-- [start:concepts]
planted = glass.planted_concept("red", unit=5, shared=(2, 5))
stored = dissect.activations(planted.module, data.with_labels(learnt), layer="code")
vector = dissect.concept_vectors(stored, ["red-c"], solver="mean_difference").vectors
truth = planted.truth.directions["code"][[planted.truth.concept_names.index("red")]]
print(evaluate.direction_cosine(vector, truth))

features, held_out = natural, torch.arange(60) >= 30
complete = evaluate.concept_completeness(features, torch.eye(8)[:4], model.head, held_out=held_out)
print(complete)  # four of the eight paints; random directions recover more, as each mixes all eight
# --8<-- [end:concepts]

# --8<-- [start:basis]
kept = dissect.activations(model, data.with_labels(learnt), layer="inside_on")
vectors = dissect.concept_vectors(kept, colours, solver="mean_difference")
parts = dissect.decompose(model, learnt.images, vectors, n_concepts=2)
logits = model(fresh.images).detach()
print(evaluate.basis_fidelity(parts.weights, parts.residual, natural[:, parts.units], logits))

noise = replace(vectors, vectors=torch.randn(vectors.vectors.shape, generator=torch.Generator().manual_seed(0)))
parts = dissect.decompose(model, learnt.images, noise, n_concepts=2)  # what as many random vectors leave over
print(evaluate.basis_fidelity(parts.weights, parts.residual, natural[:, parts.units], logits))
# --8<-- [end:basis]

# --8<-- [start:by_hand]
on = maps[:, 0] > claims.threshold[0]
concept = masks[:, claims.best[0]]
iou = (on & concept).sum() / (on | concept).sum()
# --8<-- [end:by_hand]

torch.testing.assert_close(detected.iou[0].float(), iou)
