"""The interactive atlas of a census: one HTML file to walk in."""

from __future__ import annotations

from consilience.report.atlas.contents import AtlasContents, AtlasHeads, AtlasLayer, Entry, Example, Link, Unit
from consilience.report.atlas.page import render_atlas
from consilience.report.atlas.sprites import Sprite, sprite_of

__all__ = [
    "AtlasContents",
    "AtlasHeads",
    "AtlasLayer",
    "Entry",
    "Example",
    "Link",
    "Sprite",
    "Unit",
    "render_atlas",
    "sprite_of",
]
