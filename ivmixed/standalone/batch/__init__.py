"""``ivmixed batch``: many clips on many GPUs, each made once.

`rows` reads what shall be made, `jobs` checks all of it and names each clip, `store` is the folder of finished clips,
`worker` makes one, `engine` spreads the work (in this process or on Ray), `progress` says how far it is, `index` shows
what there is. `run` is all of these in a row.
"""
