"""Studies: what was found out about a network, kept in a folder."""

from glasshouse.study.alignment import align as align
from glasshouse.study.sources import find_images as find_images
from glasshouse.study.store import Store as Store
from glasshouse.study.studying import StudiedLayer as StudiedLayer
from glasshouse.study.studying import Study as Study
