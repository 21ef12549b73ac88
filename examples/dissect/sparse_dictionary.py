"""128 atoms for a layer of the houses classifier, four at a time: what some of them mark, and what they keep of it."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F

from glasshouse import data, dissect, zoo
from glasshouse.report.scenes import contact_sheet, stack_sheets

STEPS = min(600, 5 * int(os.environ.get("GLASSHOUSE_STEPS", "120")))
IMAGES = min(300, 3 * int(os.environ.get("GLASSHOUSE_IMAGES", "100")))
model = zoo.load("houses_cnn")
scenes = data.scenes("houses", IMAGES, seed=3, size=64)
labelled = data.inputs(data.with_labels(scenes), model.preprocess)

# --8<-- [start:call]
activations = dissect.activations(model, labelled, layer="stages.1.0", label_size=(16, 16))
found = dissect.sparse_dictionary(activations, 128, k=4, n_steps=STEPS, batch_size=512)

print(found)
print(found.decoder.shape, found.l0, found.r2, int(found.dead.sum()))
# --8<-- [end:call]

# --8<-- [start:atoms]
atoms = found.apply(activations)  # like activations of 128 units: whatever analyses units analyses atoms
print(atoms)
# --8<-- [end:atoms]

# --8<-- [start:trust]
images = model.preprocess.normalise(scenes.images)
kept = found.loss_recovered(model, images, activations.targets)
other = dissect.sparse_dictionary(activations, 128, k=4, n_steps=STEPS, batch_size=512, seed=1)
stable = found.stability(other)
print(f"{kept:.1%} of the loss recovered; {(stable > 0.9).float().mean():.0%} of the atoms come back with another seed")
# --8<-- [end:trust]


def overlaps(seen: dissect.Activations, level: float = 0.98) -> torch.Tensor:
    """IoU of every unit or atom, where it is above that share of its values, with every concept: `u c`."""
    maps, masks = seen.maps.transpose(0, 1).flatten(1), seen.on_grid().transpose(0, 1).flatten(1).float()
    least = maps.kthvalue(round(level * maps.shape[1]), 1, keepdim=True).values
    on = (maps > least).float()
    both = on @ masks.T
    return both / (on.sum(1, keepdim=True) + masks.sum(1) - both).clamp(min=1)


of_units, of_atoms = overlaps(activations), overlaps(atoms)
frequent = activations.on_grid().float().mean((0, 2, 3)) > 0.002
means = [float(table.amax(0)[frequent].mean()) for table in (of_units, of_atoms)]
print(f"best IoU of a concept, on average: {means[0]:.2f} with a unit, {means[1]:.2f} with an atom")

sheets, headings = [], []
for atom in (of_atoms * (stable > 0.8)[:, None]).amax(1).argsort(descending=True)[:5].tolist():
    maps, concept = atoms.maps[:, atom], activations.labels[int(of_atoms[atom].argmax())]
    best = maps.amax((1, 2)).topk(8).indices
    shown = F.interpolate(maps[best, None] / maps.max(), size=64, mode="bilinear")
    tiles = scenes.images[best] * (0.35 + 0.65 * (2 * shown).clamp(0, 1))
    sheets.append(contact_sheet(F.interpolate(tiles, scale_factor=2), across=8))
    words = f"atom {atom}, most like '{concept.name}' (IoU {of_atoms[atom].max():.2f})"
    headings.append(f"{words}; active at {found.rate[atom]:.1%}; cosine {stable[atom]:.2f} across seeds")
out = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
out.mkdir(parents=True, exist_ok=True)
stack_sheets(sheets, headings).quantize().save(out / "sparse_dictionary.png", optimize=True)

codes = found.encode(activations.rows(slice(0, 4)))
assert ((codes > 0).sum(1) <= 4).all()
torch.testing.assert_close(found.decoder.norm(dim=1), torch.ones(128))
