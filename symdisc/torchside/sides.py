"""Rows of weights that turn together, each on one side of a plane."""

from __future__ import annotations

__all__ = ["Row", "Sides"]

Row = tuple[str, int]  # (weight, number of a row); of a reader, of a column


class Sides:
    """Union-find of rows that turn together, with the side of the plane that each is; groups may be given up."""

    def __init__(self) -> None:
        self.parent: dict[Row, tuple[Row, int]] = {}
        self.dead: set[Row] = set()

    def find(self, row: Row) -> tuple[Row, int]:
        parent, side = self.parent.setdefault(row, (row, 0))
        if parent == row:
            return row, 0
        root, more = self.find(parent)
        self.parent[row] = root, side ^ more
        return self.parent[row]

    def unite(self, a: Row, b: Row, apart: int) -> None:
        """``apart``: they are opposite sides."""
        (x, i), (y, j) = self.find(a), self.find(b)
        if x == y:
            if i ^ j != apart:
                self.dead.add(x)
            return
        self.parent[y] = x, i ^ j ^ apart
        if y in self.dead:
            self.dead.add(x)

    def give_up(self, row: Row) -> None:
        self.dead.add(self.find(row)[0])

    def alive(self, row: Row) -> bool:
        return self.find(row)[0] not in self.dead
