"""A panel of experts against plain and majority-vote sampling."""
