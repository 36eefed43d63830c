"""How a formula becomes an operator of torch, and what runs when it is called.

dispatch           an operator from a formula and its signature: checks, schema, fake kernel, autograd, vmap;
                   `operator`, the decorator that declares one for a documented function
all_pairs          the operators over all pairs of points of a model, one of each:
  pairs            distances
  nearest          the rows of a bank with the highest score
  contrast         the sums of which the contrastive loss is made
  repair           the entries that kernels over tiles leave to the formulas for two points
native             loads the compiled kernels of csrc/, and says which run here
triton/            the kernels over all pairs for GPUs
torch_internals    the private names of torch that all this takes
"""
