"""Our calls in each framework's own words: a module for each, which imports that framework and no other."""
