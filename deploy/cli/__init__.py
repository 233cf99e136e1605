"""The `neurodial` command: each command in a module of its own, imported only when it is used.

`find` finds and explains neurons, `change` makes models, `run` serves, translates and publishes; `options`, `inputs`,
`output` and `rendering` hold what they share. Imports everything.
"""
