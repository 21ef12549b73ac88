"""Whether the answer before an attack comes back when what explains the wrong one is blurred."""

from functools import partial

from glasshouse import attribute, data, diagnose, zoo

model = zoo.load("creatures_cnn")
scenes = data.scenes("creatures", 16, size=64, seed=1_000_005, labels=False)
images = model.preprocess.normalise(scenes.images)

# --8<-- [start:call]
attacked = diagnose.pgd(model, images, epsilon=3 / 255, step_size=1 / 255)
quick = partial(attribute.meaningful_perturbation, n_steps=40)
found = diagnose.recover_labels(model, attacked, scenes.categories, explain=quick)

print(found)
print(found.top, found.control)  # with its own mask, and with that of another image
# --8<-- [end:call]

assert 0 <= found.top <= found.top_k <= 1
