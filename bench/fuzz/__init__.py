"""Fuzzing: random calls, files and command lines against what is promised of every one of them. ``make fuzz``.

A *recipe* says one input in plain JSON, so that it can be kept in ``corpus/``, read, and run again. A *surface* is a
module with three functions: ``prepare()``, for what forks share, of all recipes or of one; ``recipes()``, a hypothesis
strategy; and ``judge(recipe)``, which raises ``Fault`` where a promise is broken. ``SURFACES`` lists them:

functions   the Python functions of ``hyperbolic``: results on views of every kind, against the reference on clones
operators   ``torch.ops.hyperbolic``, called directly with shapes and types that fit and that do not
formats     the files that ``icl`` reads: whole, cut, with bytes and values replaced
commands    the command line: the examples of its help with odd values in them

``rounds`` draws recipes in processes of their own, ``isolation`` runs one in a fork, ``__main__`` does both in turns.
"""

STATE = "FUZZ_STATE"
"""The environment variable that names the folder which the processes of a job share."""
SURFACES = ("functions", "operators", "formats", "commands")
