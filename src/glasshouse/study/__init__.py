"""Studies: what was found out about a network, kept in a folder."""

from glasshouse.study.store import Store as Store
