"""Mappings of plain data as HTML lists of definitions."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


def definitions(mapping: Mapping[str, Any]) -> str:
    """Write a mapping as a list of definitions, nested as it is: the command first, then in the order of the keys.

    >>> print(definitions({"seed": 0, "command": "consilience demo"}))
    <dl>
    <dt>command</dt><dd><pre><code>consilience demo</code></pre></dd>
    <dt>seed</dt><dd>0</dd>
    </dl>
    """
    order = sorted(mapping, key=lambda key: (key != "command", str(key)))
    items = [f"<dt>{_name(key)}</dt><dd>{_value(mapping[key], is_code=key == 'command')}</dd>" for key in order]
    return "<dl>\n" + "\n".join(items) + "\n</dl>"


def _name(key: object) -> str:
    return escape(str(key).replace("_", " "))


def _value(value: Any, *, is_code: bool = False) -> str:
    if is_code or (isinstance(value, str) and "\n" in value):
        return f"<pre><code>{escape(str(value))}</code></pre>"
    if isinstance(value, Mapping):
        return definitions(value) if value else "none"
    if isinstance(value, list | tuple):
        return ", ".join(_value(each) for each in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return escape(str(value))
