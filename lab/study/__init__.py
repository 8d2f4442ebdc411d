"""stage=study: the paper's tables in miniature, on any data set, from saved records.

find.py     first reading: which heads are selected, by which criterion, how often, and how good each head's own box is
plan.py     the settings that are compared, table by table
measure.py  second reading: every setting on every sample
claims.py   what the paper claims, as comparisons with a verdict
report.py   study.md, study.json and the figures
run.py      the stage
"""
