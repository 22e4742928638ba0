"""Things done with runs: reports, plans, grids, exports, base models. Training imports none of them."""
