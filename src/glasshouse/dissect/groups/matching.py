"""Partners, one to one, for the rows of a table among its columns."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def match(gain: Float[Tensor, "a b"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Rows and columns of min(a, b) entries, no two in one row or column, with the largest sum.

    Kuhn, "The Hungarian method for the assignment problem", 1955, by shortest augmenting paths (Jonker and
    Volgenant, Computing 1987).
    """
    if gain.shape[0] > gain.shape[1]:
        columns, rows = match(gain.T)
        order = rows.argsort()
        return rows[order], columns[order]
    cost = -gain.detach().cpu().double().numpy()
    n, m = cost.shape
    of_row, of_column = np.zeros(n), np.zeros(m)  # prices: cost - of_row - of_column is never negative
    owner = np.full(m, -1)
    for row in range(n):
        reached, shortest, before = np.zeros(m, bool), np.full(m, np.inf), np.full(m, -1)
        here, column, length = row, -1, 0.0
        while True:
            ways = length + cost[here] - of_row[here] - of_column
            better = ~reached & (ways < shortest)
            shortest[better], before[better] = ways[better], column
            column = int(np.where(reached, np.inf, shortest).argmin())
            length, reached[column] = shortest[column], True
            if owner[column] < 0:
                break
            here = owner[column]
        passed = reached & (owner >= 0)
        of_row[row] += length
        of_row[owner[passed]] += length - shortest[passed]
        of_column[passed] -= length - shortest[passed]
        while column >= 0:
            previous = before[column]
            owner[column] = row if previous < 0 else owner[previous]
            column = previous
    rows = torch.from_numpy(owner[owner >= 0])
    order = rows.argsort()
    return rows[order], torch.from_numpy(np.flatnonzero(owner >= 0))[order]
