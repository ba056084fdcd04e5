"""All pictures: drawn here, as SVG with the numbers beside it, for reports, pages, commands and benchmarks.

drawing    shapes, texts and colours; ``figures.css`` styles them everywhere
panel      axes, ticks and the frame of a plot
figure     a drawing with its numbers: as SVG, as part of a page, as a page
profile    heat map and curves of a profile
frontier   loss against one limit or two
report     losses, budgets and ranks of a finished job
"""
