"""Parameters of the query that a route does not know are refused where something is written.

Decides that `?dry_run=true` is no silent order to store: whoever misspells a parameter asked for something else.
"""

from __future__ import annotations

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute


async def only_known(request: Request) -> None:
    """Refuse a POST whose query has a parameter that its route does not read.

    Raises:
        RequestValidationError: names it and those that there are.
    """
    route = request.scope.get("route")
    if request.method != "POST" or not request.scope["query_string"] or not isinstance(route, APIRoute):
        return
    known = sorted(field.alias for field in route.dependant.query_params)
    if unknown := sorted(set(request.query_params) - set(known)):
        there = f"there is {', '.join(known)}" if known else "there is none"
        message = f"is no parameter of this route, {there}; correct or remove it"
        raise RequestValidationError([{"type": "unknown", "loc": ("query", name), "msg": message} for name in unknown])
