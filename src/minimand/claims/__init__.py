"""Claims: a paper's headline claim, re-run at a small honest scale: one file a paper.

``minimand claims run SLUG`` measures and says holds, fails or undecided. See :mod:`minimand.claims.claim`.
"""
