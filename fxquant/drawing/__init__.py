"""Pictures of graphs and diffs: snapshot → view → DOT text → SVG, PNG or PDF."""
