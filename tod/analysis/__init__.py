"""Results as tables and figures, contact sheets, diagnostics, and the HTML report."""
