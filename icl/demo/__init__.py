"""``icl demo``: the whole system on the testbed, from demonstrations to adapters, as one page to read."""
