"""Where the relevance of a score ended: in pixels, in biases, in stabilisers."""

from pathlib import Path

import skimage.data

from glasshouse import attribute, zoo

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "coffee.png")

# --8<-- [start:call]
report = attribute.conservation(model, images, model.index("espresso"))

print(report)  # relevance of the score, what reached the pixels, what was kept on the way, and what is missing
rows = zip(report.layers, report.operations, report.received, report.bias, strict=True)
for layer, operation, received, bias in sorted(rows, key=lambda row: -abs(float(row[3])))[:3]:
    print(f"{layer} ({operation}) received {received:.2f} and kept {bias:.2f} for its bias")
# --8<-- [end:call]

assert abs(report.gap) < 1e-4 * report.start
