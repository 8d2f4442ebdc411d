"""stage=report: one self-contained page about a run, or about two side by side.

folder.py   what a run left in its folder
samples.py  each sample: heads, maps, mask, box, IoU
pictures.py pictures, outlines and maps, small enough for a page
tables.py   run facts, figures with intervals, differences between two runs
page.py     all of it into templates/ with static/*.css and static/*.js
"""
