"""A page that shows what a policy sees, says and does, and takes instructions and a stop.

`frames` builds what is shown, `page` brings it to browsers and their commands back, `play` drives a simulated robot,
`served` watches a policy server.
"""
