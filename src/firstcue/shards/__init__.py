"""Statistics of rows that lie in many files: measured shard by shard, in any order, on one machine or many."""

from firstcue.shards.accumulator import Accumulator
from firstcue.shards.mapping import shard_moments
from firstcue.shards.measures import Features, Layers
from firstcue.shards.reading import Shard, find_shards, read_parts

__all__ = ["Accumulator", "Features", "Layers", "Shard", "find_shards", "read_parts", "shard_moments"]
