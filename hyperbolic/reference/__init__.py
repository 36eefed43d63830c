"""The maths in readable PyTorch: what every kernel is held to, and what runs where there is none.

lorentz, poincare, models   the formulas, one file a model and one for the isometries between them
lorentz_distance            the distance of the hyperboloid and what is made of it, without cancellation
elementary, special         functions of one number, in double and in double-word arithmetic
wide                        double-word arithmetic, the sums made with it, and how results are rounded
autodiff                    formulas to their derivatives, in the same arithmetic
"""
