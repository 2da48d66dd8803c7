"""Table-batched embedding lookups, SRAM as a cache over the tables.

The rate of a lookup counts what FBGEMM's benchmarks count: rows picked and pooled outputs written, without indices,
scales and padding.  The published figures do not say how many tables were looked up at once; `TABLES` is the default of
those benchmarks.  Both readings together leave the same fixed time in all twelve shapes of facts 11.2 (4.5 to 6.5 us,
as the fully connected layers of the same paper have), which neither alone does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mtia.chips.spec import ChipSpec
from mtia.engine.timeline import KernelTiming
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.kernels.embedding_bag import BagLaunch, bag_launch, mtia_embedding_bag, row_pitch_bytes
from mtia.kernels.iteration import ceil_div
from mtia.workloads.launches import Buffer, Call, Memory, time_call
from mtia.workloads.prediction import Prediction, Protocol, predicted

TABLES = 32
OUTPUT = torch.float16
_ROWS = {"int8": torch.uint8, "fp16": torch.float16, "float16": torch.float16, "fp32": torch.float32}
_SEED = 0
WAVES = 8  # tiles of a place on a PE that are walked address by address; a longer lookup goes on as the second half
MOST_ADDRESSES = 1 << 24  # of the tiles walked: fewer waves of larger ones, at least two


def predict_tbe(
    spec: ChipSpec,
    *,
    row_dtype: str,
    batch: int,
    pooling: int,
    rows: int,
    dim: int,
    tables: int = TABLES,
    protocol: Protocol = Protocol.GRAPH_CHAIN,
) -> Prediction:
    """Time of one lookup of `batch` bags of `pooling` uniformly random rows in each of `tables` tables of `rows` rows.

    Lookups follow one another with new indices, so SRAM holds what fits of the tables. int8 rows carry a float32
    scale and bias. Raises BadProblem and UnsupportedDtype.
    """
    for name, value in (("batch", batch), ("pooling", pooling), ("rows", rows), ("dim", dim), ("tables", tables)):
        if value < 1:
            raise BadProblem("tbe", argument=name, value=value, allowed="sizes are at least 1")
    if row_dtype not in _ROWS:
        raise UnsupportedDtype("tbe", chip=spec.name, dtype=row_dtype, supported=tuple(_ROWS))
    lookup = _Lookup(spec, _ROWS[row_dtype], tables, batch, pooling, rows, dim)
    at_once, walked = lookup.bags_at_once, lookup.waves_walked
    waves = tables * batch / at_once
    if waves <= walked:
        return predicted(spec, protocol, [lookup.timed(tables * batch)], lookup.how)
    return _steady(predicted(spec, protocol, [lookup.timed(walked * at_once)], lookup.how),
                   predicted(spec, protocol, [lookup.timed(walked // 2 * at_once)], lookup.how),
                   (waves - walked) / (walked - walked // 2))  # fmt: skip


def _steady(longer: Prediction, shorter: Prediction, more: float) -> Prediction:
    """`longer` and `more` times what it takes beyond `shorter`: waves of bags are alike."""
    parts = {
        name: seconds + more * max(0.0, seconds - shorter.parts.get(name, 0.0))
        for name, seconds in longer.parts.items()
    }
    seconds = longer.seconds + more * (longer.seconds - shorter.seconds)
    scale = seconds / sum(parts.values())
    return replace(longer, seconds=seconds, parts={name: part * scale for name, part in parts.items()})


@dataclass(frozen=True, slots=True)
class _Lookup:
    """A lookup; its launch may be cut to the first bags."""

    spec: ChipSpec
    dtype: torch.dtype
    tables: int
    batch: int
    pooling: int
    rows: int
    dim: int

    @property
    def how(self) -> str:
        of = self.launch.constants
        return f"{self.tables} tables, {of['ROWS']} rows a bag, {of['BAGS']} bags a tile"

    @property
    def bags_at_once(self) -> int:
        """One tile in every place on every PE."""
        return self.spec.grid.n_pes * self.spec.pe.resident_programs * self.launch.constants["BAGS"]

    @property
    def waves_walked(self) -> int:
        of = self.launch.constants
        addresses = self.bags_at_once * of["ROWS"] * of["BD"] * (2 if self.scaled else 1)
        return max(2, min(WAVES, MOST_ADDRESSES // addresses))

    @property
    def launch(self) -> BagLaunch:
        return bag_launch(self.tables, self.batch, self.pooling, self.rows, self.dim, self.pitch,
                          element_bytes=self.dtype.itemsize, scaled=self.scaled,
                          spec=self.spec)  # fmt: skip

    @property
    def scaled(self) -> bool:
        return self.dtype == torch.uint8

    @property
    def pitch(self) -> int:
        """Elements from row to row."""
        size, alignment = self.dtype.itemsize, self.spec.pe.dma.alignment_bytes
        return row_pitch_bytes(self.dim, size, alignment, scaled=self.scaled) // size

    def timed(self, bags: int) -> KernelTiming:
        """Against SRAM as lookups before left it."""
        memory = Memory(self.spec)
        table = memory.buffer(self.tables * self.rows * self.pitch, self.dtype)
        shape = (self.tables, self.batch, self.pooling)
        picked = torch.randint(0, self.rows, shape, dtype=torch.int32, generator=torch.Generator().manual_seed(_SEED))
        index = Buffer(picked.data_ptr(), torch.int32, picked.nbytes)
        out = memory.buffer(self.batch * self.tables * self.dim, OUTPUT)
        for buffer in (table, index, out):
            memory.warm(buffer)
        launch = self.launch
        arguments = (table, index, out, *launch.integers)
        grid = (ceil_div(bags, launch.constants["BAGS"]),)
        call = Call(kernel=mtia_embedding_bag, grid=grid, arguments=arguments, constants=launch.constants)
        return time_call(call, memory)


def counted_bytes(row_dtype: str, batch: int, pooling: int, dim: int, tables: int = TABLES) -> int:
    """Bytes that the rate of a lookup counts: rows and pooled outputs."""
    return tables * batch * dim * (pooling * _ROWS[row_dtype].itemsize + OUTPUT.itemsize)


__all__ = ["OUTPUT", "TABLES", "counted_bytes", "predict_tbe"]
