"""Units of a classifier of house scenes, drawn freely and through two learned priors: a VAE trained here, and a GAN."""

import os
from pathlib import Path

import torch
from torch.nn import functional as F

from glasshouse import data, visualize, zoo
from glasshouse.core.generative import Generator
from glasshouse.report.picture import to_image

STEPS = int(os.environ.get("GLASSHOUSE_STEPS", "600"))
N_IMAGES = int(os.environ.get("GLASSHOUSE_IMAGES", "2000"))
model = zoo.load("houses_cnn")
images = data.scenes("houses", N_IMAGES, seed=0).images

# --8<-- [start:train]
prior = visualize.train_prior(images, kind="vae", n_steps=STEPS, batch_size=16, learning_rate=2e-3)
print(prior)  # the share of the variance that is lost says how much the prior cannot draw
# --8<-- [end:train]

# --8<-- [start:call]
units = visualize.unit("stages.2", [3, 17, 42, 60])
settings = {"steps": min(STEPS, 96), "reference": model.preprocess.normalise(images[:256])}
gan = Generator.of(zoo.load("houses_gan").module, name="houses_gan")
pictures = [
    visualize.render(model, units, **settings),
    visualize.render(model, units, image=visualize.prior_image(prior), transforms=(), **settings),
    visualize.render(model, units, image=visualize.generator_image(gan), transforms=(), **settings),
]
for picture in pictures:
    print(picture, picture.reference)
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet = torch.cat([torch.cat(list(F.pad(picture.pixels, (0, 2, 0, 2), value=1)), 2) for picture in pictures], 1)
to_image(F.interpolate(sheet[None], scale_factor=2)[0]).save(folder / "train_prior.png", optimize=True)
assert all(picture.drawn.all() for picture in pictures)
