"""Which demonstrations a query gets, and in what order."""
