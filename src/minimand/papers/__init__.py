"""The catalogue: all 215 papers, what of each can be imported, and whether its claim held.

``minimand papers imbalanced data`` ranks them for a question. Rows are data; which parts and which claim belong to
a row is found from what the code declares.
"""

from minimand.papers.entries import Entry, entries, entry
from minimand.papers.ranking import ranked
from minimand.papers.rows import Row, row, rows

__all__ = ["Row", "rows", "row", "Entry", "entries", "entry", "ranked"]
