"""What a configuration would take on devices that are not here, before anything is paid.

It imports what stands below `run`, and nothing imports it but the commands.

`topology` names devices and what they can do; `programs` are what would run there, as shapes; `closed` reckons memory,
work and exchange from formulas; `estimate` takes those, or the word of the TPU's own compiler, whose answer `hlo`
reads, and in which `lint` finds what is done in vain; `advice` looks for what would fit, and `words` prints it all.
"""
