"""Bases: how units of many members are mixed into one unit, and how a member is expressed in the result."""
