"""What the benchmarks share: sizes, points, peers, the measurement, and the pages made of its results."""
