"""A config with lists in, a ranking of its permutations out: plan, search (journal, halving), engines, results."""
