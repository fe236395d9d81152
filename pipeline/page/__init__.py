"""The page of a data set, ``report.html``: what became of every candidate, and what the kept clips are like.

    index.py      the index by columns: 130,000 rows fit in little memory
    outcome.py    candidates by stage and by code; the numbers add up
    scores.py     what the filters measured, and where their thresholds stand
    charts.py     their histograms
    balance.py    classes, lengths, sources, groups, near-duplicates, licences
    clips.py      clips chosen to be shown, read from their tars
    cards.py      what is shown of each
    pictures.py   frames, mel and phase as pictures in the page itself
    croissant.py  croissant.json, the set for machines (JSON-LD)
    report.html.j2, report.css

``pipeline/report.py`` puts them together. Equal sets give equal bytes: no date, no machine, no chance.
"""
