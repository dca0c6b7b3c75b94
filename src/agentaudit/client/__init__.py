"""Asks gateways: one on this machine (`local`), or any by its control API (`control`).

`login` gets the tokens that a control API wants, `tokens` keeps them, and both speak HTTP through
`web` alone. Standard library only, because notebooks and the command line ask too, and neither
should need a gateway's packages.
"""
