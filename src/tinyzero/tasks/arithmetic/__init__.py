"""Reading arithmetic in what a model wrote, for every task that is about numbers."""
