"""Which prompts belong together because somebody rated both: `splitting.components` for more than memory holds.

Decides nothing that `splitting.components` does not. In each round every node takes the name of the smallest of its
neighbours and itself, and so do the ends of every edge; the smallest node of a component keeps its own name, and when
no edge is left every node has that name. At least a component's largest node goes in every round, and many more do, as
names are hashes: a chain in the order of its names would take a round per link. All of it is tables of the database,
which go to the scratch disk.
"""

from __future__ import annotations

import duckdb

_NEAR = """
SELECT node, least(node, min(other)) AS name
FROM (SELECT a AS node, b AS other FROM edge UNION ALL SELECT b, a FROM edge) GROUP BY node
"""
_JOINED = "SELECT text, coalesce(name, component) AS component FROM joined LEFT JOIN near ON component = node"
_EDGES = """
SELECT DISTINCT one.name AS a, two.name AS b
FROM edge JOIN near AS one ON a = one.node JOIN near AS two ON b = two.node WHERE one.name <> two.name
"""


def join_components(database: duckdb.DuckDBPyConnection, pairs: str) -> None:
    """Make the table `joined` of (text, component), one row per text; a component is its smallest hash.

    Args:
        database: where no table is called `edge`, `joined`, `made` or `near`.
        pairs: a query for (text, person), hashes of 64 bits; a person may be NULL.
    """
    _make(database, "joined", f"SELECT text, text AS component FROM ({pairs}) GROUP BY text")
    _make(database, "edge", f"SELECT DISTINCT text AS a, person AS b FROM ({pairs}) WHERE person IS NOT NULL")
    while database.execute("SELECT 1 FROM edge LIMIT 1").fetchone():
        _make(database, "near", _NEAR)
        _make(database, "joined", _JOINED)
        _make(database, "edge", _EDGES)
    for table in ("edge", "near"):
        database.execute(f"DROP TABLE IF EXISTS {table}")


def _make(database: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    """Give a table the rows of a query, which may read the one that it had before."""
    database.execute(f"CREATE TABLE made AS {query}")
    database.execute(f"DROP TABLE IF EXISTS {name}")
    database.execute(f"ALTER TABLE made RENAME TO {name}")
