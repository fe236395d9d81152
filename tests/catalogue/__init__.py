"""A small video site on loopback, with the faults of real ones, for tests of the crawl."""
