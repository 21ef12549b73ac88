"""Whether a method's heat maps give attacked images away."""

from glasshouse import attribute, data, diagnose, zoo

model = zoo.load("creatures_cnn")
scenes = data.scenes("creatures", 60, size=64, seed=1_000_005, labels=False)
images = model.preprocess.normalise(scenes.images)

# --8<-- [start:call]
attacked = diagnose.pgd(model, images)
found = diagnose.detect_adversarial(model, images, attacked, explain=attribute.saliency)

print(found)
print(found.attacked[:3])  # what was told of the clean and of the attacked map of each image
# --8<-- [end:call]

assert found.accuracy > 0.5 + 3 * found.stderr
