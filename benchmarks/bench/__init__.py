"""The benchmark: this transport and its peers in one place, see ``benchmarks/README.md``."""
