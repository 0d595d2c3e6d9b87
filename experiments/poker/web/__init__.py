"""A table in the browser: one page, a small JSON interface, one game for each browser session."""
