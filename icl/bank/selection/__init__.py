"""Which demonstrations a query gets, and in what order: queries, the strategies that rank rows, and prompts of both."""
