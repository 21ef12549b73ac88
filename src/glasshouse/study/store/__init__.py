"""The folder of a study: a catalogue, plain arrays, packed pictures and nouns; written whole or not at all."""

from glasshouse.study.store.checking import Finding as Finding
from glasshouse.study.store.checking import StudyCheck as StudyCheck
from glasshouse.study.store.checking import check as check
from glasshouse.study.store.exporting import export as export
from glasshouse.study.store.folder import Store as Store
from glasshouse.study.store.formats import encode_jpeg as encode_jpeg
from glasshouse.study.store.jobs import Job as Job
from glasshouse.study.store.merging import Merged as Merged
from glasshouse.study.store.merging import merge as merge
