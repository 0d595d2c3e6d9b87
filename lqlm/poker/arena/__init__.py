"""The table: agents that play poker against each other, and how well they do, with intervals."""
