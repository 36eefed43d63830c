"""Search of banks that are too large to be read whole: an approximate index, cells, and shards on many machines."""
