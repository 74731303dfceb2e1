"""Frozen graphs: snapshots, what differs between two, and what they tell. Only `snapping` knows torch."""
