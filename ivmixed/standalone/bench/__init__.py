"""``ivmixed bench``: the paper's benchmarks, made and measured here.

`suites` says what each asks for, `make` makes its clips, plain and IV-mixed from the same seeds, `measure` computes its
measures and keeps the features of the clips, `report` puts them beside the published figures.
"""
