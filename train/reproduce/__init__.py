"""Published results, run again at toy size: an experiment is a configuration and a function that reads its results.

Imports everything below: sweep trains what a configuration asks for, verdict and report are used as they stand.

    claim         what a paper says, what came out, and the one rule that decides between them
    reading       results become numbers, paired by seed
    norms         E1 to E4, E7: norms and where they stand
    attention     E5, E9, E10, E12: what attention needs and costs
    scale         E6, E8, E11: what depth and width do
    experiments   the table EXPERIMENTS: E1, E2, …
    looks         what experiments measure of a trained model beside what every sweep records
    reproduce     runs them and writes one report
"""
