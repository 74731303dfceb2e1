"""fxquant against what people would use instead: one process a side, in turns, accuracy told beside speed."""
