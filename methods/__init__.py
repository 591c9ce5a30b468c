"""Score-based generative models behind one interface; usable without the benchmark harness."""
