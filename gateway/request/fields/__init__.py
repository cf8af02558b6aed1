"""Which fields of a request body may reach the engine: tables, and how they are applied."""

from gateway.request.fields.kinds import Kind
from gateway.request.fields.table import Fate, Row, Sifted, Table, printable, sift

__all__ = [
    "Fate",
    "Kind",
    "Row",
    "Sifted",
    "Table",
    "printable",
    "sift",
]
