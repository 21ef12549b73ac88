"""Scenes with known faults: smears, repeated images, wrong labels, a category that is missing, one that is rare."""

import os
from pathlib import Path

from glasshouse import data
from glasshouse.report.scenes import contact_sheet

# --8<-- [start:call]
faults = data.Faults(blotch=0.3, memorised=0.3, mislabelled=0.25, dropped=("car and tree",), imbalance=4)
careless = data.scenes("houses", 16, size=144, seed=2, faults=faults)

print({name: values[:4].tolist() for name, values in careless.manifest.items()})
# --8<-- [end:call]

told = careless.manifest
assert (told["mislabelled"] == (told["true_category"] != careless.categories)).all()
assert "car and tree" not in [careless.class_names[category] for category in told["true_category"]]

captions = []
for row in range(16):
    flaws = [name for name in ("blotch", "memorised", "mislabelled") if told[name][row]]
    captions.append(" + ".join(flaws).replace("memorised", f"again no. {int(told['shows'][row])}") or "sound")
out = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
out.mkdir(parents=True, exist_ok=True)
contact_sheet(careless.images, across=8, captions=captions).save(out / "faults.png", optimize=True)
