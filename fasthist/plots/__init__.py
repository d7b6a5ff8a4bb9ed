"""Pictures of histograms: matplotlib's figures, pages of plotly's, and what a notebook shows."""
