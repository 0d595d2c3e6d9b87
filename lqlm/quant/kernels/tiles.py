"""How the fused 4-bit matmul is cut into tiles, and up to which size it is used.

Three limits of a GPU decide, here in bytes and lookups per weight:

* memory: the codes are 0.52 bytes of a weight; dequantizing first takes these and writes and reads 2 to 4 more;
* lookups: a streaming multiprocessor looks up about 32 values a cycle, as many as memory delivers codes for on an H100;
* tensor cores: they do about 64 products in the time of one lookup, so that with more rows than that the lookups hide
  behind the products, and with fewer the products behind the lookups.
"""

import dataclasses

MOST_ROWS = 64
"""Rows up to which the fused product is used: those of one tile, so that each weight is looked up once.

With more rows each tile of rows looks the weights up again, while a dequantized weight is read by a library's product
at full speed.  The figure follows from the limits above and has not been measured; ``python -m benchmarks.gpu`` prints
where the two ways cross.
"""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Sizes of one program of the grid; all of them powers of two.

    Attributes:
        rows: of ``x``; fewer than 16 are multiplied one by one, 16 and more by tensor cores.
        outs: columns of the weight.
        depth: rows of the weight that are looked up at once, at most a block.
        programs: the sum is split until there are that many, so that every multiprocessor has some.
        warps: of 32 threads each.
        stages: of loads that the compiler keeps in flight.  1, because it would send the lookups through shared memory
            too; the kernels load the next codes themselves.
    """

    rows: int = 16
    outs: int = 64
    depth: int = 64
    programs: int = 512
    warps: int = 4
    stages: int = 1

    def __post_init__(self) -> None:
        """Refuse what a GPU cannot compute."""
        for name in ("rows", "outs", "depth", "warps"):
            if getattr(self, name) < 1 or getattr(self, name).bit_count() != 1:
                raise ValueError(f"Tiles.{name} is {getattr(self, name)}; it must be a power of two")
        if self.outs < 16 or self.depth < 32:
            raise ValueError(f"Tiles of {self.depth} x {self.outs} are too small; give at least 32 x 16")


def tiles_for(rows: int) -> Tiles:
    """The tiles for a product of that many rows.

    >>> [tiles_for(rows).rows for rows in (1, 2, 3, 20, 500)]
    [1, 2, 16, 32, 64]
    """
    if rows <= 2:  # more would not fit the registers: a product for each weight of the tile is held until the end
        return Tiles(rows=rows, depth=64 // rows)
    return Tiles(rows=min(64, max(16, 1 << (rows - 1).bit_length())))


def power_of_two_in(size: int, most: int) -> int:
    """The largest power of two that divides ``size``, at most ``most``.

    >>> power_of_two_in(11008, 128), power_of_two_in(96, 64)
    (128, 32)
    """
    return min(size & -size, most)


def splits_for(programs: int, steps: int, wanted: int) -> int:
    """Parts of a sum of ``steps`` terms, so that ``programs`` become ``wanted`` or nearly so.

    >>> splits_for(32, 64, 512), splits_for(4096, 64, 512), splits_for(1, 9, 512)
    (16, 1, 9)
    """
    return max(1, min(steps, wanted // programs))
