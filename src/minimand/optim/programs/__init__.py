"""A step as a program: traced once, split, and run over the memory of what it steps.

``graphs`` traces a formula. ``hoist`` splits what depends on numbers alone, the ``prelude``, from what touches large
tensors. That body is either ``compiled``, or ``simplify`` and ``fuse`` take operators out of it and ``place`` says
where the results of the others go. ``in_place`` is all of it for the parameters of an optimizer.
"""
